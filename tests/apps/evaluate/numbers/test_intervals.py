"""Intervals against analytic standard errors, and how often they hold the truth."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from apps.evaluate.numbers.intervals import (
    GROUPS,
    RESAMPLES,
    group_means,
    interval,
    jackknife_interval,
    mean_interval,
    means,
    resamples,
)
from apps.evaluate.numbers.moments import Moments, frechet
from tests.apps.evaluate.numbers.test_moments import draw


def normal(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_group_means_are_in_order_of_appearance_without_nan() -> None:
    values = torch.tensor([1.0, 5.0, 3.0, math.nan, math.nan])
    found = group_means(values, ["cat", "dog", "cat", "dog", "mug"])
    assert found[:2].tolist() == [2, 5]
    assert math.isnan(found[2])
    assert len(found) == 3


def test_the_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    """A mean of n numbers has standard error s / sqrt(n), and 95 % lie within 1.96 of them."""
    values = normal(400)
    low, high = mean_interval(values)
    error = values.std(correction=0).item() / 20
    assert low == pytest.approx(values.mean().item() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(values.mean().item() + 1.96 * error, abs=0.2 * error)


def test_an_interval_is_that_of_its_seed_and_leaves_out_nan() -> None:
    values = normal(50)
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert mean_interval(values, seed=3) != mean_interval(values, seed=4)
    gaps = torch.cat([values[:20], torch.full((9,), math.nan), values[20:]])
    assert mean_interval(gaps, seed=3) == mean_interval(values, seed=3)


def test_the_interval_of_a_mean_is_that_of_its_resamples() -> None:
    values = normal(50)
    expected = interval(means(values, resamples(50, seed=3)))
    assert mean_interval(values, seed=3) == pytest.approx(expected, rel=1e-12)


def test_groups_that_agree_make_the_interval_wider() -> None:
    """Each of 25 numbers 16 times: as sure as 25, not as 400."""
    values = normal(25).repeat_interleave(16)
    low, high = mean_interval(values)
    wide_low, wide_high = mean_interval(group_means(values, [i // 16 for i in range(400)]))
    assert (wide_high - wide_low) / (high - low) == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [math.nan] * 3])
def test_one_number_has_no_interval(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least 2 numbers, found"):
        mean_interval(torch.tensor(values))


def test_resamples_draw_as_many_groups_as_there_are() -> None:
    counts = resamples(10, seed=3)
    assert counts.sum(1).tolist() == [10] * RESAMPLES
    assert torch.equal(counts, resamples(10, seed=3))
    assert not torch.equal(counts, resamples(10, seed=4))


def test_means_leave_out_what_does_not_apply() -> None:
    values = torch.tensor([0.5, 1.0, math.nan], dtype=torch.float64)
    counts = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]], dtype=torch.float64)
    assert means(values, counts).tolist() == [0.75, 0.5]


def test_the_bootstrap_interval_holds_the_truth() -> None:
    counts = resamples(60, seed=0)
    covered = 0
    for seed in range(200):
        values = (torch.rand(60, generator=torch.Generator().manual_seed(seed)) < 0.7).double()
        low, high = interval(means(values, counts))
        covered += low <= 0.7 <= high
    assert 0.88 <= covered / 200 <= 0.98


def left_out(values: Tensor, groups: int) -> list[float]:
    return [
        (values.sum() - part.sum()).item() / (len(values) - len(part))
        for part in values.chunk(groups)
    ]


@pytest.mark.parametrize("groups", range(2, GROUPS + 1))
def test_the_jackknife_of_a_mean_is_the_t_interval_of_the_group_means(groups: int) -> None:
    values = normal(groups * 5)
    low, high = jackknife_interval(values.mean().item(), left_out(values, groups))
    parts = values.view(groups, -1).mean(1).numpy()
    expected = stats.t.interval(0.95, groups - 1, parts.mean(), stats.sem(parts))
    assert (low, high) == pytest.approx(expected, rel=1e-5)


def test_the_jackknife_interval_holds_the_truth() -> None:
    covered = 0
    for seed in range(400):
        values = -torch.rand(100, generator=torch.Generator().manual_seed(seed)).double().log()
        low, high = jackknife_interval(values.mean().item(), left_out(values, GROUPS))
        covered += low <= 1 <= high
    assert 0.91 <= covered / 400 <= 0.98


def test_the_jackknife_interval_of_frechet_distances_holds_that_of_many_rows() -> None:
    """Of the distance to a fixed set, by taking groups away from the sum of all."""
    real = Moments.of(draw(4000, 3))
    shifted = draw(4000, 3) + 1
    truth = frechet(Moments.of(shifted), real)
    covered = 0
    for part in shifted.split(200):
        whole = Moments.of(part)
        rest = [frechet(whole - Moments.of(group), real) for group in part.chunk(GROUPS)]
        low, high = jackknife_interval(frechet(whole, real), rest)
        covered += low <= truth <= high
    assert covered >= 16


@pytest.mark.parametrize("groups", [0, 1, 21])
def test_a_jackknife_has_its_number_of_groups(groups: int) -> None:
    with pytest.raises(ValueError, match=f"from 2 to 20 groups, found {groups}"):
        jackknife_interval(0.0, [0.0] * groups)
