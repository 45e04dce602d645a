"""Prompts beside pictures: their embeddings, cosines, and what they are known by."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from apps.evaluate.networks.extractors import TextExtractor
from apps.evaluate.numbers.arrays import blocks, check_directions, unit, units
from apps.evaluate.pictures.features import Features

_log = logging.getLogger("diffusteer")
BATCH = 256


def text_units(texts: Sequence[str], network: TextExtractor) -> Tensor:
    """Embeddings of norm 1 of texts (N, D), in float64; warns of those that are cut."""
    distinct = list(dict.fromkeys(texts))
    cut = [text for text in distinct if network.cut(text)]
    if cut:
        _log.warning(
            "%d of %d prompts are longer than %s reads, and cut: the first is %r",
            *(len(cut), len(distinct), network.name, cut[0][:60]),
        )
    parts = [network.text(distinct[i : i + BATCH]) for i in range(0, len(distinct), BATCH)]
    rows = {text: row for row, text in enumerate(distinct)}
    return units(network.name, torch.cat(parts))[[rows[text] for text in texts]]


def cosines(features: Features, texts: Tensor) -> Tensor:
    """Cosine of each picture with a text of its own, (N, D) of norm 1, in float64 (N,)."""
    check_directions(str(features.folder.path), features.array)
    found, start = [], 0
    for part in blocks(features.array):
        found.append((unit(part) * texts[start : start + len(part)]).sum(1))
        start += len(part)
    return torch.cat(found)


def fingerprint(texts: Sequence[str]) -> str:
    """Hash of texts, in any order."""
    return hashlib.sha256(json.dumps(sorted(texts)).encode()).hexdigest()
