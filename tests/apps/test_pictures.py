"""Metadata survives the round trip, files are whole or absent, the sheet shows everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apps.pictures import (
    CELL,
    COLUMNS,
    Row,
    contact_sheet,
    parameters_text,
    thumbnail,
    write_file,
    write_png,
)

SETTINGS: dict[str, Any] = {
    "prompt": "a red star, “bright” 星",
    "negative_prompt": "blur",
    "seed": 7,
    "steps": 25,
    "scheduler": "PNDMScheduler",
    "guidance": "CFG(scale=6.0) + Rescale()",
    "guidance_config": {"rule": "Chain"},
    "width": 64,
    "height": 32,
    "model": "emblem-unet",
    "versions": {"diffusteer": "0.1.0"},
}


def test_metadata_round_trip(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", Image.new("RGB", (64, 32), "red"), SETTINGS)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (64, 32)
        text: dict[str, str] = image.text  # type: ignore[attr-defined]
    assert json.loads(text["diffusteer"]) == SETTINGS
    assert text["parameters"] == parameters_text(SETTINGS)


def test_parameters_text() -> None:
    assert parameters_text(SETTINGS).splitlines() == [
        "a red star, “bright” 星",
        "Negative prompt: blur",
        "Steps: 25, Sampler: PLMS, Seed: 7, Size: 64x32, Model: emblem-unet, "
        "Guidance: CFG(scale=6.0) + Rescale(), Version: diffusteer 0.1.0",
    ]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"rule": "CFG", "scale": 6.0}, "CFG scale: 6.0, "),
        (None, "CFG scale: 1, "),
        ({"rule": "CFG", "scale": 6.0, "between": []}, None),
        ({"rule": "CFG", "scale": {"schedule": "cosine"}}, None),
        ({"rule": "CFG", "scale": None}, None),
    ],
)
def test_cfg_scale_only_where_it_is_the_whole_truth(config: Any, words: str | None) -> None:
    text = parameters_text(SETTINGS | {"guidance_config": config})
    assert words in text if words else "CFG scale" not in text


@pytest.mark.parametrize(
    ("scheduler", "sampler"),
    [
        ("DDIMScheduler", "DDIM"),
        ("EulerAncestralDiscreteScheduler", "Euler a"),
        ("FlowMatchEulerDiscreteScheduler", "Euler"),
        ("KDPM2AncestralDiscreteScheduler", "DPM2 a"),
        ("UniPCMultistepScheduler", "UniPC"),
        ("DEISMultistepScheduler", "DEISMultistepScheduler"),
        ("DPMSolverMultistepScheduler", "DPMSolverMultistepScheduler"),
        ("DPMSolverSinglestepScheduler", "DPMSolverSinglestepScheduler"),
    ],
)
def test_samplers_have_the_names_of_the_web_ui_or_of_diffusers(
    scheduler: str, sampler: str
) -> None:
    assert f", Sampler: {sampler}, " in parameters_text(SETTINGS | {"scheduler": scheduler})


def test_values_with_commas_are_quoted() -> None:
    text = parameters_text(SETTINGS | {"guidance": "CFG(cosine(2.0, 9.0))"})
    assert 'Guidance: "CFG(cosine(2.0, 9.0))", ' in text


def test_no_metadata(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", Image.new("RGB", (4, 4)))
    with Image.open(tmp_path / "a.png") as image:
        assert not image.info


def test_a_broken_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.png"
    write_file(file, b"old")

    def interrupted(path: Path, content: bytes) -> None:
        with path.open("wb") as stream:
            stream.write(content[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_file(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((64, 64), (256, 256)),
        ((16, 8), (256, 128)),
        ((100, 60), (200, 120)),
        ((1024, 512), (256, 128)),
    ],
)
def test_thumbnail(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert thumbnail(Image.new("RGB", size)).size == shown


def test_thumbnail_keeps_pixels_sharp() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    shown = np.asarray(thumbnail(Image.fromarray(noise)))
    assert np.array_equal(shown[::4, ::4], noise)
    assert np.array_equal(shown[3::4, 3::4], noise)


def test_contact_sheet_shows_every_picture() -> None:
    colours = ["red", "lime", "blue"]
    pictures = [Image.new("RGB", (CELL, CELL), colour) for colour in colours]
    sheet = contact_sheet([Row("one", pictures[:2]), Row("two " * 60, pictures[2:])])
    found = {colour: count for count, colour in sheet.getcolors(1 << 20) or []}
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)):
        assert found[colour] == CELL * CELL
    assert sheet.width < 3 * CELL


def test_long_rows_are_broken() -> None:
    pictures = [Image.new("RGB", (CELL, CELL), "red")] * (COLUMNS + 1)
    sheet = contact_sheet([Row("many", pictures)])
    assert sheet.width < (COLUMNS + 1) * CELL
    assert sheet.height > 2 * CELL
