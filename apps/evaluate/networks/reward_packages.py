"""Preference models that live in packages of their authors."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from typing import Any

import torch
from PIL import Image

from apps.evaluate.networks.pretrained import exact, weights_hash


class ImageReward:
    """ImageReward-v1.0, unbounded and about 0 on average.

    "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation", Xu et al.
    2023, arXiv 2304.05977.

    Raises:
        ValueError: the package image-reward cannot be imported.
    """

    name = "imagereward"

    def __init__(self, device: torch.device) -> None:
        package = _package("ImageReward", "image-reward")
        with redirect_stdout(sys.stderr):
            self._model = package.load("ImageReward-v1.0", device=device)
        self._weights = weights_hash(self._model)

    @exact()
    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """Scores, pair by pair."""
        check_pairs(prompts, images)
        return [
            float(self._model.score(prompt, image.convert("RGB")))
            for prompt, image in zip(prompts, images, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """What decides the scores."""
        package = f"image-reward {version('image-reward')}"
        return {"name": self.name, "package": package, "weights": self._weights}


class Hpsv2:
    """Human Preference Score v2.1, a cosine between 0.2 and 0.3 as a rule.

    "Human Preference Score v2: A Solid Benchmark for Evaluating Human Preferences of Text-to-Image
    Synthesis", Wu et al. 2023, arXiv 2306.09341. The package chooses the device itself, and reads
    its weights again at each call, so the pictures of one prompt go in together.

    Raises:
        ValueError: the package hpsv2 cannot be imported.
    """

    name = "hpsv2"

    def __init__(self) -> None:
        self._package = _package("hpsv2.img_score", "hpsv2")

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """Scores, prompt by prompt."""
        check_pairs(prompts, images)
        scores = [0.0] * len(prompts)
        for prompt in dict.fromkeys(prompts):
            places = [place for place, other in enumerate(prompts) if other == prompt]
            pictures = [images[place].convert("RGB") for place in places]
            with redirect_stdout(sys.stderr):
                found = self._package.score(pictures, prompt, hps_version="v2.1")
            for place, score in zip(places, found, strict=True):
                scores[place] = float(score)
        return scores

    def describe(self) -> dict[str, Any]:
        """What decides the scores."""
        return {"name": self.name, "package": f"hpsv2 {version('hpsv2')}", "weights": "v2.1"}


def check_pairs(prompts: Sequence[str], images: Sequence[Image.Image]) -> None:
    """Raise ValueError unless there is a picture for each prompt."""
    if len(prompts) != len(images):
        raise ValueError(f"there are {len(prompts)} prompts and {len(images)} images")


def _package(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            raise ValueError(f"{package} is not installed; pip install {package}") from error
        raise ValueError(
            f"{package} is installed but cannot be imported ({error}); check that it fits the "
            "installed packages and that its files are complete"
        ) from error
