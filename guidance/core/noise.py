"""Noise of a rule's own, image by image: no pipeline generator is touched, no batch is felt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from guidance.core.prediction import Step


def own_generators(step: Step, owner: str, seed: int) -> list[torch.Generator]:
    """A generator for each image, made at the first call in a run and kept in its memory.

    Call it at every step: the first one sees the noise that images start from, bit for bit.

    Args:
        step: the step.
        owner: name of the rule.
        seed: of the rule.
    """
    key = (owner, "generators", seed)
    if key not in step.memory:
        step.memory[key] = [generator_of(seed, image) for image in step.x]
    return step.memory[key]


def generator_of(seed: int, image: Tensor) -> torch.Generator:
    """A generator that depends on a seed and on every bit of an image."""
    pixels = image.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    digest = hashlib.sha256(seed.to_bytes(8, "big") + pixels).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def noise_like(like: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise, each image from its own generator on the CPU, ``(B, ...)``."""
    shape, dtype = like.shape[1:], like.dtype
    noise = [torch.randn(shape, generator=each, dtype=dtype) for each in generators]
    return torch.stack(noise).to(like.device)
