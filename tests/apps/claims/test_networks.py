"""Networks of rules count by their weights."""

from pathlib import Path

import pytest

from apps.claims.networks import fingerprint


def test_fingerprints_are_of_all_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.claims.networks.shipped", lambda name: tmp_path / name)
    folder = tmp_path / "net" / "part"
    folder.mkdir(parents=True)
    seen = []
    for content in (b"one", b"two"):
        (folder / "model.safetensors").write_bytes(content)
        fingerprint.cache_clear()
        seen.append(fingerprint("net"))
    assert len({*seen}) == 2
    fingerprint.cache_clear()
