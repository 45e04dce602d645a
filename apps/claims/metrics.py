"""What is read from pictures, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from apps.claims.requests import Request, leaks
from apps.claims.settings import EACH
from apps.emblem.score import Reading, right, shown, stated

RESAMPLES = 1000


def read_values(reading: Reading, requests: Sequence[Request]) -> dict[str, Tensor]:
    """Per metric one number for each picture (N,); nan where it does not apply.

    ``accuracy`` is 1 where all that the prompt states is right, ``valid`` where the picture shows
    emblems at all, ``leakage`` where it shows what the negative states; an attribute's name is the
    share of its statements that are right.
    """
    told = reading.recognisable().tolist()
    values: dict[str, list[float]] = {"valid": [float(ok) for ok in told]}
    goals = [goal for request in requests if (goal := request.goal)]
    if not goals:
        return {"valid": torch.tensor(values["valid"])}
    values["accuracy"] = [float(ok) for ok in right(reading, goals)]
    for ok, scene, goal, request in zip(told, reading.scenes(), goals, requests, strict=True):
        hits: dict[str, list[bool]] = {}
        for name, slot, value in stated(goal):
            hits.setdefault(name, []).append(ok and shown(scene, name, slot) == value)
        for name in ("shape", "colour", "texture", "size", "background"):
            found = hits.get(name)
            values.setdefault(name, []).append(sum(found) / len(found) if found else float("nan"))
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


class Frechet:
    """Frechet distance of features to those of a reference (M, D), in float64.

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``, Heusel et al. 2017, arXiv 1706.08500; the trace
    of the root is that of the symmetric ``(C2^(1/2) C1 C2^(1/2))^(1/2)``.
    """

    def __init__(self, reference: Tensor) -> None:
        self.mean, self.covariance = _moments(reference.double())
        values, vectors = torch.linalg.eigh(self.covariance)
        self.root = vectors * values.clamp(min=0).sqrt() @ vectors.T

    def __call__(self, features: Tensor, weights: Tensor | None = None) -> float:
        """Distance of features (N, D), each counted ``weights`` (N,) times."""
        mean, covariance = _moments(features.double(), weights)
        inner = self.root @ covariance @ self.root
        root = torch.linalg.eigvalsh(inner).clamp(min=0).sqrt().sum()
        trace = covariance.trace() + self.covariance.trace() - 2 * root
        return float((mean - self.mean).square().sum() + trace)


def _moments(features: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    counts = torch.ones(len(features)) if weights is None else weights
    counts = counts.to(features)
    mean = counts @ features / counts.sum()
    centred = features - mean
    return mean, centred.T @ (counts[:, None] * centred) / (counts.sum() - 1)


def resamples(groups: int, seed: int, count: int = RESAMPLES) -> Tensor:
    """How often each of the groups is drawn in each bootstrap resample, (count, groups)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(groups, (count, groups), generator=generator)
    counts = torch.zeros(count, groups, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(counts))


def group_means(values: Tensor) -> Tensor:
    """Mean over the pictures of each request, (N,) to (N / EACH,); nan where none applies."""
    return values.double().view(-1, EACH).nanmean(1)


def means(values: Tensor, counts: Tensor) -> Tensor:
    """Mean of values (groups,) in each resample (count, groups); nan values are left out."""
    return (counts @ values.nan_to_num()) / (counts @ (~values.isnan()).double())


def interval(replicates: Tensor) -> tuple[float, float]:
    """Bootstrap 95 % interval: percentiles of what the resamples give (count,), nan left out."""
    low, high = replicates.nanquantile(replicates.new_tensor([0.025, 0.975])).tolist()
    return low, high
