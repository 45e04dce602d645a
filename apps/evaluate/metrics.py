"""Scores of features (N, D) as pure functions; numpy or torch, computed in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from apps.evaluate.numbers.arrays import Array, blocks, check_directions, check_pair, unit
from apps.evaluate.numbers.composition import cp_clip, cp_clip_matched, ti_clip
from apps.evaluate.numbers.kernel import kernel_distance
from apps.evaluate.numbers.moments import Moments, frechet
from apps.evaluate.numbers.neighbours import membership, radii

__all__ = [
    "DensityCoverage",
    "PrecisionRecall",
    "cp_clip",
    "cp_clip_matched",
    "density_coverage",
    "frechet_distance",
    "kernel_distance",
    "precision_recall",
    "ti_clip",
    "vendi_score",
]


def frechet_distance(real: Array, fake: Array) -> float:
    """Frechet distance of two sets of at least 2 rows; biased upwards, the more the smaller N.

    Heusel et al. 2017, arXiv 1706.08500; covariances are unbiased.

    Raises:
        ValueError: fewer rows, other widths, or numbers that are not finite.
    """
    check_pair(real, fake)
    return frechet(Moments.of(real), Moments.of(fake))


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]: of fakes near a real picture, and of real pictures near a fake."""

    precision: float
    recall: float


def precision_recall(real: Array, fake: Array, k: int = 3) -> PrecisionRecall:
    """Shares of each set that lie in a k-nearest-neighbour ball of the other.

    Kynkaanniemi et al. 2019, arXiv 1904.06991; a picture is not its own neighbour.

    Raises:
        ValueError: as ``frechet_distance``, or a set has no more than k rows.
    """
    check_pair(real, fake)
    near_real = membership(fake, real, radii(real, k)).balls > 0
    near_fake = membership(real, fake, radii(fake, k)).balls > 0
    return PrecisionRecall(_mean(near_real), _mean(near_fake))


class DensityCoverage(NamedTuple):
    """Density, from 0 up and 1 on average for equal laws, and coverage in [0, 1]."""

    density: float
    coverage: float


def density_coverage(real: Array, fake: Array, k: int = 5) -> DensityCoverage:
    """Real balls that hold each fake, divided by k, and share of real balls that hold a fake.

    Naeem et al. 2020, arXiv 2002.09797; a picture is not its own neighbour.

    Raises:
        ValueError: as ``frechet_distance``, or ``real`` has no more than k rows.
    """
    check_pair(real, fake)
    found = membership(fake, real, radii(real, k))
    return DensityCoverage(_mean(found.balls) / k, _mean(found.points > 0))


def vendi_score(features: Array) -> float:
    """Effective number of different rows, from 1 (all equal) to N (all orthogonal).

    Exponential of the entropy of the eigenvalues of the cosine kernel divided by N; Friedman and
    Dieng, The Vendi Score, 2022, arXiv 2210.02410. They are those of the (D, D) second moment.

    Raises:
        ValueError: no rows, rows of zeros, or numbers that are not finite.
    """
    check_directions("features", features)
    return effective_number(second_moment(features))


def second_moment(features: Array) -> Tensor:
    """Sum of the outer products of the rows' directions, (D, D); sums of disjoint sets add."""
    moment = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    for x in blocks(features):
        units = unit(x)
        moment.addmm_(units.T, units)
    return moment


def effective_number(moment: Tensor) -> float:
    """Vendi score of a ``second_moment``, whose trace is the number of rows."""
    shares = torch.linalg.eigvalsh(moment / moment.trace()).clamp(min=0)
    return float(torch.special.entr(shares).sum().exp())


def _mean(values: Tensor) -> float:
    return values.double().mean().item()
