"""The shipped models, loaded with plain diffusers and by the command without --model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline
from PIL import Image
from typer.testing import CliRunner

from apps.cli import app
from apps.shipped import shipped, shipped_names

PIPELINES = {"emblem-unet": StableDiffusionPipeline, "emblem-dit": StableDiffusion3Pipeline}
PROMPT = "a large red star on a blue background"


def _mostly(image: Image.Image, channel: int) -> float:
    """Share of pixels in which this channel is clearly the strongest."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    others = np.delete(pixels, channel, axis=-1).max(axis=-1)
    return float((pixels[..., channel] > others + 40).mean())


@pytest.mark.parametrize("name", PIPELINES)
def test_plain_diffusers_makes_what_the_prompt_says(name: str) -> None:
    pipe = PIPELINES[name].from_pretrained(shipped(name))
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        PROMPT,
        guidance_scale=5.0,
        num_inference_steps=25,
        num_images_per_prompt=4,
        generator=torch.Generator().manual_seed(0),
    ).images
    assert {image.size for image in images} == {(64, 64)}
    good = [image for image in images if _mostly(image, 0) > 0.05 and _mostly(image, 2) > 0.3]
    assert len(good) >= 3


def test_the_command_uses_the_shipped_model(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["sample", PROMPT, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    good = 0
    for path in tmp_path.glob("0*.png"):
        with Image.open(path) as image:
            good += _mostly(image, 0) > 0.05 and _mostly(image, 2) > 0.3
    assert good >= 3


def test_the_models_are_small() -> None:
    files = [p for name in shipped_names() for p in shipped(name).rglob("*") if p.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25_000_000
