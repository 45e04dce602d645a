"""The settings in a PNG as a parser reads them that is written from AUTOMATIC1111's own rules.

``parse_generation_parameters`` of modules/infotext_utils.py in AUTOMATIC1111/stable-diffusion-webui
v1.10: its two regular expressions, and what it does with lines and quotes.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apps.pictures import parameters_text, write_png
from tests.apps.test_pictures import SETTINGS

PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
SIZE = re.compile(r"^(\d+)x(\d+)$")


def parse(text: str) -> dict[str, str]:
    *lines, last = text.strip().split("\n")
    if len(PARAMETER.findall(last)) < 3:
        lines, last = [*lines, last], ""
    found = {"Prompt": "", "Negative prompt": ""}
    part = "Prompt"
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            part, line = "Negative prompt", line[16:].strip()
        found[part] += line if found[part] == "" else f"\n{line}"
    for key, value in PARAMETER.findall(last):
        if value[0] == value[-1] == '"':
            value = json.loads(value)
        if size := SIZE.match(value):
            found |= {f"{key}-1": size[1], f"{key}-2": size[2]}
        else:
            found[key] = value
    return found


def stripped(text: str) -> str:
    """What the format can hold: without the spaces around lines and the empty lines around all."""
    return "\n".join(line.strip() for line in text.strip().split("\n"))


PROMPTS = (
    "a red star",
    'a sign that says "open, now", close up',
    "a star\nin two lines, and\n\na third",
    "a guide, Steps: 3, Sampler: none, Seed: 5, Size: 1x1",
    "a star\nSteps: 20, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 64x64",
    "(red:1.2), [a|b], <lora:cat:0.8> \\(not a weight\\)",
    "a star\nNegative prompt: none of it, of course",
    '"',
    "\\",
    "ключ: значение, 星 🌟",
    "a trailing comma,",
    "  spaces around  \n  lines  ",
)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("negative", [None, 'blur, "text", Steps: 9', "two\nlines\nSeed: 4"])
def test_prompts_come_back(prompt: str, negative: str | None) -> None:
    text = parameters_text(SETTINGS | {"prompt": prompt, "negative_prompt": negative})
    found = parse(text)
    assert found["Prompt"] == stripped(prompt).replace("\nNegative prompt:", " Negative prompt:")
    assert found["Negative prompt"] == stripped(negative or "")
    assert (found["Seed"], found["Steps"]) == ("7", "25")


def test_words_at_random_come_back() -> None:
    draw = random.Random(0)
    words = ["star", "Steps:", "Seed: 3,", '"', "\\", ",", ":", "\n", "Negative prompt", "🌟", "("]
    for _ in range(300):
        prompt, negative = (" ".join(draw.choices(words, k=12)) for _ in range(2))
        if not prompt.strip() or not negative.strip():
            continue
        found = parse(parameters_text(SETTINGS | {"prompt": prompt, "negative_prompt": negative}))
        assert found["Prompt"] == stripped(prompt)
        assert found["Negative prompt"] == stripped(negative)
        assert found["Model"] == "emblem-unet"


@pytest.mark.parametrize(
    ("key", "name", "value"),
    [
        ("model", "Model", 'cat, "best": v2'),
        ("model", "Model", "back\\slash"),
        ("guidance", "Guidance", "CFG(cosine(2.0, 9.0)) + Rescale(phi=0.5)"),
        ("guidance", "Guidance", "PerpNeg(negatives=('a \"b\", c',))"),
        ("scheduler", "Sampler", "Euler"),
    ],
)
def test_settings_come_back(key: str, name: str, value: str) -> None:
    found = parse(parameters_text(SETTINGS | {key: value}))
    assert found[name] == value
    assert (found["Size-1"], found["Size-2"]) == ("64", "32")
    assert found["Version"] == "diffusteer 0.1.0"


def test_it_is_in_the_file(tmp_path: Path) -> None:
    settings: dict[str, Any] = SETTINGS | {"prompt": "a star\nin 星 lines"}
    write_png(tmp_path / "a.png", Image.new("RGB", (4, 4)), settings)
    with Image.open(tmp_path / "a.png") as image:
        assert parse(image.info["parameters"])["Prompt"] == settings["prompt"]
