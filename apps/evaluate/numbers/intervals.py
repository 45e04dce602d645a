"""How sure a score is: 95 % intervals of means and of scores of sets."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

RESAMPLES = 1000
GROUPS = 20
"""Most groups of a jackknife."""

_STUDENT = (
    *(12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157),
    *(2.228139, 2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922),
    2.093024,
)
"""97.5 % quantiles of Student's law with 1 to 19 degrees of freedom."""


class Interval(NamedTuple):
    """Bounds of a 95 % interval."""

    low: float
    high: float


def group_means(values: Tensor, groups: Sequence[Hashable]) -> Tensor:
    """Mean of the values (N,) of each group, in order of appearance; nan is left out.

    Args:
        groups: N names; a group without a number has mean nan.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    rows = torch.tensor([numbers[name] for name in groups])
    known = ~values.isnan()
    counts = torch.bincount(rows[known], minlength=len(numbers))
    sums = torch.bincount(rows[known], values[known].double(), minlength=len(numbers))
    return sums / counts


def mean_interval(values: Tensor, seed: int = 0) -> Interval:
    """Bootstrap percentile interval of the mean of values (N,); nan is left out.

    Where items of one group belong together (pictures of one subject), give the ``group_means``.

    Raises:
        ValueError: fewer than 2 numbers.
    """
    known = values[~values.isnan()].double()
    if len(known) < 2:
        raise ValueError(f"an interval needs at least 2 numbers, found {len(known)}")
    return interval(torch.stack([known[rows].mean() for rows in _draws(len(known), seed)]))


def interval(replicates: Tensor) -> Interval:
    """Percentiles of what bootstrap resamples give (count,), nan left out."""
    bounds = replicates.new_tensor([0.025, 0.975])
    return Interval(*replicates.nanquantile(bounds).tolist())


def resamples(groups: int, seed: int) -> Tensor:
    """How often each group is drawn in each bootstrap resample, (RESAMPLES, groups)."""
    drawn = [torch.bincount(rows, minlength=groups) for rows in _draws(groups, seed)]
    return torch.stack(drawn).double()


def _draws(number: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(RESAMPLES):
        yield torch.randint(number, (number,), generator=generator)


def means(values: Tensor, counts: Tensor) -> Tensor:
    """Mean of values (groups,) in each resample (count, groups); nan values are left out."""
    return (counts @ values.nan_to_num()) / (counts @ (~values.isnan()).double())


def jackknife_interval(value: float, left_out: Sequence[float]) -> Interval:
    """Interval of a score of a set, from its values with each of G equal groups left out.

    ``value +- t (G - 1)^(1/2) s`` with s the standard deviation (1/G) of those values and t the
    quantile of Student's law with G - 1 degrees of freedom; Efron and Tibshirani, An Introduction
    to the Bootstrap, 1993, chapter 11. Repeated rows, as in a bootstrap, would bias the scores.

    Raises:
        ValueError: G is not from 2 to ``GROUPS``.
    """
    groups = len(left_out)
    if not 2 <= groups <= GROUPS:
        raise ValueError(f"a jackknife takes from 2 to {GROUPS} groups, found {groups}")
    spread = torch.tensor(left_out, dtype=torch.float64).std(correction=0).item()
    reach = _STUDENT[groups - 2] * (groups - 1) ** 0.5 * spread
    return Interval(value - reach, value + reach)
