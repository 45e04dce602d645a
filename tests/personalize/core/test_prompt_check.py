"""What is said of prompts whose words do nothing, or less than they could."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from personalize import check_prompt, load
from tests import tiny
from tests.personalize.core.test_loading import build, inversion


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_a_word_that_acts(family: str) -> None:
    pipe = build(family)
    load(pipe, inversion(pipe, count=3))
    found = check_prompt(pipe, "a <CAT>, x")
    assert found.tokens == ("a</w>", "<cat>", "<cat>_1", "<cat>_2", ",</w>", "x</w>")
    assert found.words == ("<cat>",) and found.problems == ()


def test_every_word_is_named_once_in_order() -> None:
    pipe = tiny.sd()
    for token in ("<cat>", "<dog>", "<owl>"):
        load(pipe, inversion(pipe, token, 1))
    assert check_prompt(pipe, "<dog> <cat> <dog>").words == ("<dog>", "<cat>")


def _one(pipe: Any, prompt: str) -> str:
    (problem,) = check_prompt(pipe, prompt).problems
    return problem


def test_a_prompt_without_the_word() -> None:
    pipe = tiny.sd()
    assert check_prompt(pipe, "a cat").problems == ()
    load(pipe, inversion(pipe))
    assert _one(pipe, "a cat") == "the prompt holds none of the loaded words: <cat>"


def test_a_word_that_is_not_there() -> None:
    pipe = tiny.sd()
    assert "tokenizer: '<dog>' is no word that it knows" in _one(pipe, "a <dog> and <dog>")


def test_a_prompt_that_is_too_long() -> None:
    """Of 14 letters at most."""
    pipe = tiny.sd()
    load(pipe, inversion(pipe, count=2))
    assert check_prompt(pipe, "a b c d e f g h i j k l <cat>").problems == ()
    problem = _one(pipe, "a b c d e f g h i j k l m <cat>")
    assert "has 15 tokens, of which 14 are read; from '<cat>_1' on it is cut off" in problem


def _by_diffusers(pipe: Any, folder: Path, token: str) -> Any:
    (path, *_) = inversion(tiny.sd(), token).save(folder)
    pipe.load_textual_inversion(path, token=token)
    return pipe


def test_what_diffusers_leaves_behind(tmp_path: Path) -> None:
    pipe = _by_diffusers(tiny.sd(), tmp_path, "<cat>")
    assert check_prompt(pipe, "a <cat>").words == ("<cat>",)
    assert check_prompt(pipe, "a <cat>").problems == ()
    pipe.unload_textual_inversion("<cat>")
    left, other, unknown = check_prompt(pipe, "a <cat>").problems
    assert "tokenizer: '<cat>_1' is left over from a '<cat>'" in left and "<cat>_2" in other
    assert "'<cat>' is no word" in unknown


def test_capitals_that_diffusers_does_not_see(tmp_path: Path) -> None:
    pipe = _by_diffusers(tiny.sd(), tmp_path, "<Cat>")
    found = check_prompt(pipe, "a <Cat>")
    assert "'<Cat>' has capitals, so that only the first" in found.problems[0]
    assert "<cat>_1" not in [token.lower() for token in found.tokens]


def test_a_word_of_one_encoder_alone(tmp_path: Path) -> None:
    pipe = _by_diffusers(build("sdxl"), tmp_path, "<cat>")
    unknown, half = check_prompt(pipe, "a <cat>").problems
    assert "tokenizer_2: '<cat>' is no word that it knows" in unknown
    assert "'<cat>' is known to one of tokenizer and tokenizer_2 only" in half


def test_a_pipeline_without_clip_is_refused() -> None:
    with pytest.raises(ValueError, match="has no CLIP text encoder"):
        check_prompt(tiny.dit(), "a cat")
