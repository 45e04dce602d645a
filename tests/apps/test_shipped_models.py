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
from guidance import DynamicCFG, guide
from guidance.evaluators import Alignment, Discriminator, LatentClassifier, Reward

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


@pytest.mark.parametrize(("name", "other"), [("unet", "dit"), ("dit", "unet")])
def test_evaluators_know_their_models(name: str, other: str) -> None:
    def path(kind: str) -> str:
        return str(shipped(f"emblem-evaluators/{kind}"))

    pipe = PIPELINES[f"emblem-{name}"].from_pretrained(shipped(f"emblem-{name}"))
    pipe.set_progress_bar_config(disable=True)
    own = Discriminator(path(f"discriminator-{name}"))
    judges = (Alignment(path("alignment")), Reward(path("reward")), own)
    with guide(pipe, DynamicCFG((1, 4), judges)) as run:
        pipe(PROMPT, num_inference_steps=2, output_type="latent")
    for step in run.report.to_dict()["steps"]:
        assert "unjudged_images" not in step["extras"]
    classifier = LatentClassifier(path("classifier"))
    assert classifier.classes == ("checkered", "dotted", "solid", "striped")
    classifier.check_pipe(pipe, [pipe.unet if name == "unet" else pipe.transformer])
    foreign = DynamicCFG((1, 4), Discriminator(path(f"discriminator-{other}")))
    with pytest.raises(ValueError, match="was trained for another denoiser"):
        guide(pipe, foreign).__enter__()


def test_the_models_are_small() -> None:
    files = [p for name in shipped_names() for p in shipped(name).rglob("*") if p.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25_000_000
