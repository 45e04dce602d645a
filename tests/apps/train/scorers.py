"""Scorers of one's own, as users write them."""

from __future__ import annotations

from PIL import Image


def redness(images: list[Image.Image], prompts: list[str]) -> list[float]:
    return [float(image.resize((1, 1)).getpixel((0, 0))[0]) for image in images]  # type: ignore[index]


def one_number(images: list[Image.Image], prompts: list[str]) -> float:
    return 1.0


def constant(images: list[Image.Image], prompts: list[str]) -> list[float]:
    return [1.0] * len(images)


def broken(images: list[Image.Image], prompts: list[str]) -> list[float]:
    return [float("nan")] * len(images)


number = 5
