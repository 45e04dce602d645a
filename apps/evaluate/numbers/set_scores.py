"""Scores of whole sets of features with their intervals: FID, KID, PRDC and Vendi."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from apps.evaluate.metrics import effective_number, second_moment
from apps.evaluate.numbers.intervals import GROUPS, Interval, jackknife_interval
from apps.evaluate.numbers.kernel import KernelSums
from apps.evaluate.numbers.moments import Moments, frechet
from apps.evaluate.numbers.neighbours import membership, radii
from apps.evaluate.result import Score
from apps.evaluate.scores import mean_score

JACKKNIFE = "interval by leaving generated pictures out"
PRECISION_K = 3
DENSITY_K = 5
Array = NDArray[np.float32]


def fid(fake: Array, real: Moments) -> Score:
    """Frechet distance of features (N, D) to reference moments."""
    moments = Moments.of(fake)
    left_out = [frechet(moments - Moments.of(part), real) for part in _parts(fake)]
    value = frechet(moments, real)
    about = f"Frechet distance of Gaussians, unbiased covariances; biased upwards; {JACKKNIFE}"
    interval = left_out_interval(value, left_out)
    return Score("fid", value, interval, len(fake), about, "lower")


def kid(fake: Array, real: Array) -> Score:
    """Unbiased squared MMD of features (N, D) and (M, D)."""
    parts = _parts(fake)
    sums = KernelSums.of(real, parts or [fake])
    value = sums.distance()
    about = f"unbiased MMD^2 over all pairs, kernel (x.y/D + 1)^3, times 1; {JACKKNIFE}"
    interval = left_out_interval(value, sums.left_out()) if parts else None
    return Score("kid", value, interval, len(fake), about, "lower")


def vendi(fake: Array) -> Score:
    """Effective number of different rows of features (N, D)."""
    moment = second_moment(fake)
    left_out = [effective_number(moment - second_moment(part)) for part in _parts(fake)]
    value = effective_number(moment)
    about = f"exponential of the entropy of the cosine kernel's eigenvalues; {JACKKNIFE}"
    return Score("vendi", value, left_out_interval(value, left_out), len(fake), about)


@dataclass(frozen=True)
class Neighbourhoods:
    """Precision, recall, density and coverage; ``density`` (N,) is that of each fake."""

    scores: list[Score]
    density: Tensor


def neighbourhoods(fake: Array, real: Array, seed: int) -> Neighbourhoods:
    """Who lies in whose nearest-neighbour balls; see ``precision_recall``, ``density_coverage``.

    Raises:
        ValueError: fewer than 6 real or 4 generated pictures.
    """
    if len(real) <= DENSITY_K or len(fake) <= PRECISION_K:
        raise ValueError(
            f"found {len(fake)} generated and {len(real)} real pictures; precision, recall, density"
            f" and coverage need {PRECISION_K + 1} and {DENSITY_K + 1}, other metrics 2 of each"
        )
    near_real = membership(fake, real, radii(real, PRECISION_K)).balls > 0
    near_fake = membership(real, fake, radii(fake, PRECISION_K)).balls > 0
    dense = membership(fake, real, radii(real, DENSITY_K))
    density, covered = dense.balls.double() / DENSITY_K, dense.points > 0
    few = f"balls to the nearest neighbour {PRECISION_K}"
    many = f"balls to the nearest neighbour {DENSITY_K}"
    table = {
        "precision": (near_real, f"share of generated pictures in real {few}", "generated"),
        "recall": (near_fake, f"share of real pictures in generated {few}", "real"),
        "density": (density, f"real {many} around a generated picture, / {DENSITY_K}", "generated"),
        "coverage": (covered, f"share of real {many} with a generated picture", "real"),
    }
    scores = [
        mean_score(name, found.double(), about, over=f"{side} pictures", seed=seed)
        for name, (found, about, side) in table.items()
    ]
    return Neighbourhoods(scores, density)


def jackknife_groups(items: int) -> int:
    """Number of groups of a jackknife: each has 2 items or more; 0 for fewer than 4 items."""
    groups = min(GROUPS, items // 2)
    return groups if groups > 1 else 0


def left_out_interval(value: float, left_out: Sequence[float]) -> Interval | None:
    """``jackknife_interval``; None without groups, or where they agree and tell of no spread."""
    if not left_out or math.isclose(min(left_out), max(left_out), rel_tol=1e-9, abs_tol=1e-12):
        return None
    return jackknife_interval(value, left_out)


def _parts(features: Array) -> list[Array]:
    groups = jackknife_groups(len(features))
    return [features[group::groups] for group in range(groups)]
