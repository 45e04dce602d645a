"""Scores that are means over pictures."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from torch import Tensor

from apps.evaluate.numbers.intervals import group_means, mean_interval
from apps.evaluate.result import Score


def mean_score(
    metric: str,
    values: Tensor,
    about: str,
    *,
    groups: Sequence[Hashable] | None = None,
    over: str = "pictures",
    better: str = "higher",
    seed: int = 0,
) -> Score:
    """The mean of values (N,) with a bootstrap interval; nan is left out.

    Values that are all the same have no interval: resamples say nothing of those not seen.

    Args:
        metric, about, better: see ``Score``.
        groups: N names of what belongs together; each group counts the same, and is what the
            interval resamples.
        over: what these are, for the record.
        seed: of the resamples.
    """
    units = values.double() if groups is None else group_means(values, groups)
    known = units[~units.isnan()]
    return Score(
        metric,
        known.mean().item() if len(known) else math.nan,
        mean_interval(known, seed) if len(known.unique()) > 1 else None,
        int((~values.isnan()).sum()),
        f"{about}; interval by resampling {over}",
        better,
    )


def listed(values: Tensor) -> list[float | None]:
    """Values (N,) for a result's single pictures, nan as None."""
    return [None if math.isnan(value) else value for value in values.tolist()]
