"""The settings in a PNG as programs read them that are not ours.

What they do with the text is from their code: ``modules/infotext_utils.py`` of
AUTOMATIC1111/stable-diffusion-webui, ``web/scripts/pnginfo.js`` of comfyanonymous/ComfyUI,
``sd_prompt_reader/format/a1111.py`` of receyuki/stable-diffusion-prompt-reader, and
``src/utils/metadata/automatic.metadata.ts`` of civitai/civitai.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import dropwhile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apps.pictures import parameters_text, write_png
from tests.apps.test_pictures import SETTINGS

NEGATIVE, STEPS = "Negative prompt:", "Steps:"


def web_ui(text: str) -> dict[str, str]:
    """AUTOMATIC1111: the last line has the settings if it has three or more."""
    *lines, last = text.strip().split("\n")
    if len(pairs(last)) < 3:
        lines, last = [*lines, last], ""
    parts = {"Prompt": "", "Negative prompt": ""}
    part = "Prompt"
    for line in map(str.strip, lines):
        if line.startswith(NEGATIVE):
            part, line = "Negative prompt", line.removeprefix(NEGATIVE).strip()
        parts[part] += f"\n{line}" if parts[part] else line
    for key, value in pairs(last):
        value = json.loads(value) if value[0] == value[-1] == '"' else value
        sides = value.split("x")
        if len(sides) == 2 and all(side.isdecimal() for side in sides):
            parts |= {f"{key}-1": sides[0], f"{key}-2": sides[1]}
        else:
            parts[key] = value
    return parts


def pairs(line: str) -> list[tuple[str, str]]:
    """Names of two characters or more, each with what stands after its colon.

    A value goes on to the next comma, or to the end of its quotes if a comma or nothing follows.
    """
    found, start = [], 0
    while (colon := line.find(":", start)) >= 0:
        name = ""
        for letter in reversed(line[start:colon]):
            if not (letter.isalnum() or letter in "_ -/"):
                break
            name = letter + name
        name = "".join(dropwhile(lambda letter: letter in " -/", name))
        if len(name) < 2:
            start = colon + 1
            continue
        rest = line[colon + 1 :].lstrip()
        end = closing(rest)
        value = rest[:end] if end and rest[end : end + 1] in ("", ",") else rest.partition(",")[0]
        found.append((name, value))
        start = len(line) - len(rest) + len(value) + 1
    return found


def closing(text: str) -> int:
    """Length of the quoted text at the start; 0 if there is none."""
    place = 1
    while text[:1] == '"' and place < len(text):
        if text[place] == '"':
            return place + 1 if place > 1 else 0
        place += 2 if text[place] == "\\" else 1
    return 0


def graph_editor(text: str) -> tuple[str, str]:
    """ComfyUI, which takes the last of each, and nothing without a negative prompt."""
    above, _, _ = text.rpartition(f"\n{STEPS}")
    prompt, found, negative = above.rpartition(f"\n{NEGATIVE} ")
    return (prompt, negative) if found else (above, "")


def prompt_reader(text: str) -> tuple[str, str]:
    """The prompt reader, which takes the first of each."""
    above, _, _ = text.partition(f"\n{STEPS}")
    if NEGATIVE not in text:
        return above, ""
    assert f"\n{NEGATIVE}" in above  # else it takes what stands anywhere
    prompt, _, negative = above.partition(f"\n{NEGATIVE}")
    return prompt, negative


def gallery(text: str) -> tuple[str, str]:
    """Civitai, which takes the first line of settings away, and cuts at every mark."""
    lines = text.split("\n")
    lines.remove(next(line for line in lines if line.startswith(f"{STEPS} ")))
    prompt, *negatives = "\n".join(lines).split(NEGATIVE)
    return prompt, " ".join(negatives)


def read_by_web_ui(text: str) -> tuple[str, str]:
    found = web_ui(text)
    return found["Prompt"], found["Negative prompt"]


READERS = (read_by_web_ui, graph_editor, prompt_reader, gallery)
every_reader = pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
Reader = Callable[[str], tuple[str, str]]


def bare(text: str) -> str:
    return "".join(text.split())


def stripped(text: str) -> str:
    """What the form holds: without the spaces around lines and the empty lines around all."""
    return "\n".join(line.strip() for line in text.strip().split("\n"))


PROMPTS = (
    "a red star",
    'a sign that says "open, now", close up',
    "a star\nin two lines, and\n\na third",
    "a guide, Steps: 3, Sampler: none, Seed: 5, Size: 1x1",
    "(red:1.2), [a|b], <lora:cat:0.8> \\(not a weight\\)",
    '"',
    "\\",
    "ключ: значение, 星 🌟",
    "a trailing comma,",
    "  spaces around  \n  lines  ",
    "",
)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("negative", [None, 'blur, "text", Steps: 9', "two\nlines\nSeed: 4"])
def test_prompts_come_back(prompt: str, negative: str | None) -> None:
    text = parameters_text(SETTINGS | {"prompt": prompt, "negative_prompt": negative})
    found = web_ui(text)
    assert found["Prompt"] == stripped(prompt)
    assert found["Negative prompt"] == stripped(negative or "")
    assert (found["Seed"], found["Steps"]) == ("7", "25")


@pytest.mark.parametrize(
    ("prompt", "written"),
    [
        ("a\nNegative prompt: b", "a\nNegative prompt : b"),
        ("Negative prompt: b", "Negative prompt : b"),
        ("no Negative prompt: at all", "no Negative prompt : at all"),
        ("a\nSteps: 20, Seed: 1, Size: 1x1", "a\nSteps : 20, Seed: 1, Size: 1x1"),
        ("Steps: few", "Steps : few"),
        ("few Steps: 3", "few Steps: 3"),
    ],
)
def test_the_marks_of_the_form_are_none_in_prompts(prompt: str, written: str) -> None:
    found = web_ui(parameters_text(SETTINGS | {"prompt": prompt, "negative_prompt": prompt}))
    assert found["Prompt"] == found["Negative prompt"] == written


@every_reader
def test_words_at_random_come_back(reader: Reader) -> None:
    draw = random.Random(0)
    words = ["star", "Steps:", "Steps: 9, Seed: 3, Size: 8x8", '"', "\\", ",", ":", "\n", "\r\n"]
    words += ["Negative prompt:", "Negative prompt", "\nNegative prompt: blur", "星", "🌟", "("]
    for _ in range(500):
        prompt, negative = (" ".join(draw.choices(words, k=draw.randrange(12))) for _ in range(2))
        text = parameters_text(SETTINGS | {"prompt": prompt, "negative_prompt": negative.strip()})
        assert tuple(map(bare, reader(text))) == (bare(prompt), bare(negative))
        found = web_ui(text)
        assert (found["Steps"], found["Seed"], found["Model"]) == ("25", "7", "emblem-unet")


@pytest.mark.parametrize(
    ("key", "name", "value"),
    [
        ("model", "Model", 'cat, "best": v2'),
        ("model", "Model", "back\\slash"),
        ("model", "Model", 'back\\slash, "quote\\"'),
        ("guidance", "Guidance", "CFG(cosine(2.0, 9.0)) + Rescale(phi=0.5)"),
        ("guidance", "Guidance", "PerpNeg(negatives=('a \"b\", c',))"),
        ("guidance", "Guidance", "PerpNeg(negatives=('a\nb',))"),
        ("scheduler", "Sampler", "Euler"),
    ],
)
def test_settings_come_back(key: str, name: str, value: str) -> None:
    found = web_ui(parameters_text(SETTINGS | {key: value}))
    assert found[name] == value
    assert (found["Size-1"], found["Size-2"]) == ("64", "32")
    assert found["Version"] == "diffusteer 0.1.0"


def test_it_is_in_the_file(tmp_path: Path) -> None:
    settings: dict[str, Any] = SETTINGS | {"prompt": "a star\nin 星 lines"}
    write_png(tmp_path / "a.png", Image.new("RGB", (4, 4)), settings)
    with Image.open(tmp_path / "a.png") as image:
        assert web_ui(image.info["parameters"])["Prompt"] == settings["prompt"]
