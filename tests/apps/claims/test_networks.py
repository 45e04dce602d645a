"""Networks of rules are found beside the shipped models, and count by their weights."""

from pathlib import Path

import pytest

from apps.claims.cells import Material
from apps.claims.networks import fingerprint, listening, network_folder
from apps.shipped import shipped
from guidance import AutoGuidance, Rule

NOWHERE = Material(None, (), "", Path())


def test_a_rule_names_a_network_and_takes_its_folder() -> None:
    rule = listening("CFG(2) + AutoGuidance(3, 'emblem-unet-weak')", ["emblem-unet-weak"])(NOWHERE)
    assert isinstance(rule, Rule)
    assert repr(AutoGuidance(3, str(shipped("emblem-unet-weak")))) in repr(rule)


def test_a_network_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"^Reward\('none'\) needs none, which is not among"):
        listening("Reward('none')", ["none"])(NOWHERE)


def test_fingerprints_are_of_all_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.claims.networks.shipped", lambda name: tmp_path / name)
    folder = tmp_path / "net" / "part"
    folder.mkdir(parents=True)
    seen = []
    for content in (b"one", b"two"):
        (folder / "model.safetensors").write_bytes(content)
        fingerprint.cache_clear()
        seen.append(fingerprint("net"))
    assert network_folder("net") == tmp_path / "net"
    assert len({*seen, fingerprint("absent")}) == 3
    fingerprint.cache_clear()
