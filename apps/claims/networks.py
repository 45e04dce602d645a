"""Networks that rules of cells use, named by their folder beside the shipped models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from apps.claims.cells import Material
from apps.shipped import shipped
from guidance import Rule, parse_rule


def network_folder(name: str) -> Path:
    """Where a network is, which need not be there."""
    return shipped("emblem-classifier").parent / name


@lru_cache
def fingerprint(name: str) -> str:
    """Of a model's or network's weights: the first digits of a hash over all of them."""
    digest = hashlib.sha256()
    for path in sorted(network_folder(name).rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def listening(rule: str, networks: Sequence[str]) -> Callable[[Material], Rule]:
    """Makes the rule of a text that names networks where it takes their folders.

    Raises:
        ValueError: on making it, a network that is not there.
    """

    def make(material: Material) -> Rule:
        text = rule
        for name in networks:
            folder = network_folder(name)
            if not folder.is_dir():
                raise ValueError(f"{rule} needs {name}, which is not among the shipped networks")
            text = text.replace(repr(name), repr(str(folder)))
        return parse_rule(text)

    return make
