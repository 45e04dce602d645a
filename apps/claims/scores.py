"""Scores of given pictures, and how they go with true rarity: cells that draw nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apps.claims.estimates import Estimate
from apps.emblem.pictures import to_tensor
from apps.emblem.render import render
from apps.emblem.world import Scene, rarity, sample_scene

Score = Callable[[Any, Tensor], Tensor]
"""Scores (N,) that a pipeline gives to pictures (N, 3, 64, 64) in [-1, 1]."""


def draw_scenes(count: int, seed: int) -> tuple[Tensor, list[Scene]]:
    """Pictures (count, 3, 64, 64) in [-1, 1] by the world's law, and what they show."""
    rngs = [np.random.default_rng([seed, number]) for number in range(count)]
    scenes = [sample_scene(rng) for rng in rngs]
    images = [render(scene, rng) for scene, rng in zip(scenes, rngs, strict=True)]
    return to_tensor(np.stack(images)), scenes


def truth_of(scenes: list[Scene]) -> dict[str, Tensor]:
    """What scores are compared with: exact ``-log p``, and the number of emblems."""
    return {
        "rarity": torch.tensor([rarity(scene) for scene in scenes]),
        "emblems": torch.tensor([float(len(scene.emblems)) for scene in scenes]),
    }


def correlations(values: dict[str, Tensor], resamples: Tensor) -> dict[str, Estimate]:
    """Rank correlation of score and rarity, of all pictures and of those of one emblem.

    Args:
        values: ``score``, ``rarity`` and ``emblems``, (N,) each.
        resamples: how often each picture is drawn in each bootstrap resample, (count, N).
    """
    found = {}
    for name, kept in {
        "correlation": values["emblems"] > 0,
        "correlation_single": values["emblems"] == 1,
    }.items():
        score, truth = values["score"][kept], values["rarity"][kept]
        drawn = [
            torch.arange(len(score)).repeat_interleave(row) for row in resamples[:, kept].long()
        ]
        replicates = torch.tensor([spearman(score[rows], truth[rows]) for rows in drawn])
        found[name] = Estimate(spearman(score, truth), replicates)
    return found


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two sets of numbers (N,); equals share the mean of their ranks."""
    if len(a) < 2:
        return math.nan
    return float(torch.corrcoef(torch.stack([_ranks(a), _ranks(b)]))[0, 1])


def _ranks(values: Tensor) -> Tensor:
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts - 1) / 2)[places]
