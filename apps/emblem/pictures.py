"""Sets of rendered pictures and captions to train and measure on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPTokenizer

from apps.emblem.render import render
from apps.emblem.world import Scene, caption, drop_parts, sample_any, sample_scene


@dataclass(frozen=True)
class Pictures:
    """Rendered scenes: ``images`` (N, 64, 64, 3) uint8 and their truth."""

    images: NDArray[np.uint8]
    scenes: list[Scene]


def draw_pictures(length: int, seed: int, *, any_share: float) -> Pictures:
    """``length`` scenes of the training world; ``any_share`` of them from all that can be drawn."""
    images, scenes = [], []
    for index in range(length):
        rng = np.random.default_rng([seed, index])
        anything = rng.random() < any_share
        scene = sample_any(rng) if anything else sample_scene(rng, held_out=False)
        images.append(render(scene, rng))
        scenes.append(scene)
    return Pictures(np.stack(images), scenes)


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """uint8 pictures (B, H, W, 3) as float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def draw_captions(scenes: list[Scene], seed: int, each: int) -> tuple[list[str], Tensor]:
    """``each`` captions per scene: the distinct texts, and their numbers (N, each)."""
    numbers: dict[str, int] = {}
    rows = []
    for index, scene in enumerate(scenes):
        rng = np.random.default_rng([seed, index])
        texts = [caption(drop_parts(scene, rng)) for _ in range(each)]
        rows.append([numbers.setdefault(text, len(numbers)) for text in texts])
    return list(numbers), torch.tensor(rows)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids (N, model_max_length), padded and cut as the pipelines do it."""
    return tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids


def save_grid(images: Tensor, path: Path, *, columns: int) -> None:
    """Write pictures (B, 3, H, W) in [-1, 1] as one PNG with ``columns`` pictures a row."""
    pixels = images.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    rows = [np.concatenate(pixels[i : i + columns], 1) for i in range(0, len(pixels), columns)]
    Image.fromarray(np.concatenate(rows)).save(path)
