"""What is read from pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from apps.claims.requests import Request, leaks
from apps.claims.settings import EACH
from apps.emblem.score import Reading, judge


def read_values(reading: Reading, requests: Sequence[Request]) -> dict[str, Tensor]:
    """Per metric one number for each picture (N,); nan where it does not apply.

    ``accuracy`` is 1 where all that the prompt states is right, ``valid`` where the picture shows
    emblems at all, ``leakage`` where it shows what the negative states; an attribute's name is the
    share of its statements that are right.
    """
    goals = [goal for request in requests if (goal := request.goal)]
    if not goals:
        return {"valid": reading.recognisable().float()}
    values = judge(reading, goals)
    told, scenes = reading.recognisable().tolist(), reading.scenes()
    for ok, scene, request in zip(told, scenes, requests, strict=True):
        if request.avoided:
            values.setdefault("leakage", []).append(float(ok and leaks(scene, request)))
    return {name: torch.tensor(found) for name, found in values.items()}


def detail(images: Tensor) -> Tensor:
    """Energy of what a 3x3 mean takes away from pictures (N, 3, H, W), per picture (N,)."""
    smooth = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return (images - smooth).square().mean((1, 2, 3))


def spread(features: Tensor) -> Tensor:
    """Distance of the features (N, D) of the two pictures of each request (N / 2,)."""
    first, second = features.view(-1, EACH, features.shape[1]).unbind(1)
    return (first - second).norm(dim=1)


def similarity(images: Tensor, others: Tensor) -> Tensor:
    """SSIM of pictures (N, 3, H, W) in [-1, 1] with others, per picture (N,)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    ssim: Any = structural_similarity_index_measure
    return ssim(images, others, data_range=2.0, reduction="none")
