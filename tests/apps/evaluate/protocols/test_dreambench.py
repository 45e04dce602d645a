"""The DreamBench tables against the counts of the paper and samples of the official list."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from apps.cli import app
from apps.evaluate.protocols.dreambench import IMAGES_PER_PROMPT, SUBJECTS, prompts, without_token


def test_subjects_and_classes_are_those_of_the_paper() -> None:
    classes = Counter(subject.class_noun for subject in SUBJECTS.values())
    assert (len(SUBJECTS), len(classes)) == (30, 15)
    assert (classes["dog"], classes["cat"], classes["toy"]) == (7, 2, 5)
    assert {name for name, subject in SUBJECTS.items() if subject.live} == {
        *("cat", "cat2"),
        *("dog", "dog2", "dog3", "dog5", "dog6", "dog7", "dog8"),
    }
    total = sum(len(prompts(s.class_noun, s.live)) for s in SUBJECTS.values())
    assert total * IMAGES_PER_PROMPT == 3000


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_subject_has_25_prompts_with_its_token(name: str) -> None:
    subject = SUBJECTS[name]
    texts = prompts(subject.class_noun, subject.live, token="<v1>")
    assert len(texts) == len(set(texts)) == 25
    for text in texts:
        assert text.startswith("a ")
        assert text.count(f"<v1> {subject.class_noun}") == text.count("<v1>") == 1


def test_order_and_wording_are_the_official_ones() -> None:
    pet, thing = prompts("dog", live=True), prompts("can", live=False)
    assert pet[0] == "a sks dog in the jungle"
    assert pet[13] == "a sks dog wearing a black top hat and a monocle"
    assert thing[12] == "a sks can with the Eiffel Tower in the background"
    assert thing[19:] == [
        "a sks can on top of a white rug",
        "a red sks can",
        "a purple sks can",
        "a shiny sks can",
        "a wet sks can",
        "a cube shaped sks can",
    ]
    assert [text.replace("dog", "can") for text in pet[:10] + pet[20:]] == thing[:10] + thing[20:]


@pytest.mark.parametrize(
    ("prompt", "token", "left"),
    [
        ("a sks dog in the jungle", "sks", "a dog in the jungle"),
        ("a cube shaped sks can", "sks", "a cube shaped can"),
        ("a <v1> dog", "<v1>", "a dog"),
        ("a photo of sks", "sks", "a photo of"),
        ("a sksy dog", "sks", "a sksy dog"),
        ("a dog.x dog", ".", "a dog.x dog"),
    ],
)
def test_the_token_is_taken_out_as_a_whole_word(prompt: str, token: str, left: str) -> None:
    assert without_token(prompt, token) == left


def test_without_the_token_a_prompt_is_that_of_the_class() -> None:
    for text in prompts("teapot", live=False):
        assert f"{without_token(text)} ".replace("teapot ", "sks teapot ").strip() == text


def test_the_command_writes_the_prompts_of_every_subject(tmp_path: Path) -> None:
    made = tmp_path / "prompts"
    command = ["evaluate", "dreambench", str(made), "--token", "xyz"]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stdout) == (0, f"prompts of 30 subjects are in {made}\n")
    assert {path.stem for path in made.iterdir()} == set(SUBJECTS)
    lines = (made / "cat2.txt").read_text().splitlines()
    assert lines == prompts("cat", live=True, token="xyz")
    assert (made / "can.txt").read_text().splitlines() == prompts("can", live=False, token="xyz")
    told = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert told == {"folder": str(made), "subjects": [*SUBJECTS]}


@pytest.mark.parametrize("token", ["", "two words"])
def test_a_token_that_is_no_word_is_refused(tmp_path: Path, token: str) -> None:
    made = tmp_path / "prompts"
    result = CliRunner().invoke(app, ["evaluate", "dreambench", str(made), "--token", token])
    assert (result.exit_code, made.exists()) == (2, False)
    assert f"token must be one word, found {token!r}" in result.stderr
