"""Rules as text, in which shipped networks go by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from apps.rules import read_rule, rule_settings
from apps.shipped import shipped
from guidance import CFG, AutoGuidance, PerpNeg

WEAK = "emblem-unet-weak"


@pytest.mark.parametrize(
    "text", [f"AutoGuidance(2, '{WEAK}')", f'CFG(3) + autoguidance(2, "{WEAK}")']
)
def test_a_name_stands_for_the_folder(text: str) -> None:
    found = AutoGuidance(2, str(shipped(WEAK)))
    assert read_rule(text) == (CFG(3) + found if "CFG" in text else found)


def test_a_folder_of_this_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / WEAK).mkdir()
    assert read_rule(f"AutoGuidance(2, '{WEAK}')") == AutoGuidance(2, WEAK)


def test_other_quoted_texts_stay() -> None:
    assert read_rule("PerpNeg(('a/b', \"emblem\"), 2, 4)") == PerpNeg(("a/b", "emblem"), 2, 4)


def test_metadata_has_the_name() -> None:
    rule = CFG(3) + AutoGuidance(2, str(shipped(WEAK)))
    told = rule_settings(rule)
    assert told["guidance"] == f"CFG(scale=3.0) + AutoGuidance(scale=2.0, weak='{WEAK}')"
    assert told["guidance_config"]["rules"][1]["weak"] == WEAK
    assert read_rule(told["guidance"]) == rule


def test_no_rule() -> None:
    assert rule_settings(None) == {"guidance": "none", "guidance_config": None}
