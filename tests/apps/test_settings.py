"""Settings are refused with the name, the value found and the value expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apps.settings import MAX_SEED, SampleSettings

RIGHT: dict[str, Any] = {"prompts": ("a red star",), "out": Path("out")}


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"prompts": ()}, ValueError, "prompts must be one or more texts"),
        ({"prompts": "a red star"}, ValueError, "prompts must be one or more texts"),
        ({"prompts": ("a", " ")}, ValueError, "prompt 2 must say what to draw, found ' '"),
        ({"prompts": (3,)}, TypeError, "prompt 1 must be text, found int"),
        ({"steps": 0}, ValueError, "steps must be a whole number from 1 up, found 0"),
        ({"steps": 2.5}, TypeError, r"steps must be a whole number .* found 2.5 \(float\)"),
        ({"num_images": -1}, ValueError, "num_images must be .* found -1"),
        ({"batch_size": True}, TypeError, "batch_size must be .* found True"),
        ({"height": 0}, ValueError, "height must be .* found 0"),
        ({"seed": -1}, ValueError, "seed must be .* found -1"),
        ({"seed": MAX_SEED, "num_images": 2}, ValueError, "seed must be"),
        ({"scheduler": "eulr"}, ValueError, r"unknown scheduler 'eulr'; did you mean 'euler'\?"),
    ],
)
def test_wrong_settings(wrong: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        SampleSettings(**RIGHT | wrong)


def test_the_last_seed_is_allowed() -> None:
    SampleSettings(prompts=("a",), out=Path("out"), seed=MAX_SEED, num_images=1)


@pytest.mark.parametrize(("text", "guided"), [("CFG(3)", True), ("none", False), (" None", False)])
def test_none_means_unguided(text: str, guided: bool) -> None:
    assert SampleSettings(prompts=("a",), out=Path("out"), guidance=text).guided is guided
