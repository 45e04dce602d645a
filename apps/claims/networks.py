"""Fingerprints of shipped models and networks, by which a measured cell knows what it used."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from apps.shipped import shipped


@lru_cache
def fingerprint(name: str) -> str:
    """Of the weights of a shipped model or network: the first digits of a hash over all of them."""
    digest = hashlib.sha256()
    for path in sorted(shipped(name).rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
