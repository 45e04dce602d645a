"""Scores of sets are those of the pure functions, and their intervals those of deletion."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from apps.evaluate.metrics import (
    density_coverage,
    frechet_distance,
    kernel_distance,
    precision_recall,
    vendi_score,
)
from apps.evaluate.numbers.intervals import GROUPS, jackknife_interval, mean_interval
from apps.evaluate.numbers.moments import Moments
from apps.evaluate.numbers.set_scores import (
    Array,
    fid,
    kid,
    left_out_interval,
    neighbourhoods,
    vendi,
)
from apps.evaluate.result import Score
from tests.apps.evaluate.numbers.test_moments import draw
from tests.apps.evaluate.numbers.test_neighbours import slow_inside

SetScore = Callable[[Array, Array], Score]
SCORES: dict[str, SetScore] = {
    "fid": lambda fake, real: fid(fake, Moments.of(real)),
    "kid": kid,
    "vendi": lambda fake, _: vendi(fake),
}
PURE: dict[str, Callable[[Array, Array], float]] = {
    "fid": lambda fake, real: frechet_distance(real, fake),
    "kid": lambda fake, real: kernel_distance(real, fake),
    "vendi": lambda fake, _: vendi_score(fake),
}


def rows(number: int, seed: int = 0) -> Array:
    """Features (N, 6) as a store keeps them."""
    return (draw(number, 6, seed).numpy() + 1).astype(np.float32)


@pytest.mark.parametrize("number", [4, 5, 11, 45])
@pytest.mark.parametrize("name", SCORES)
def test_a_value_is_the_pure_function_and_its_interval_that_of_groups_left_out(
    name: str, number: int
) -> None:
    fake, real = rows(number), rows(30, seed=1)
    score = SCORES[name](fake, real)
    assert (score.metric, score.n) == (name, number)
    assert score.value == pytest.approx(PURE[name](fake, real), rel=1e-9)
    groups = min(GROUPS, number // 2)
    left_out = [
        PURE[name](fake[np.arange(number) % groups != group], real) for group in range(groups)
    ]
    assert score.interval == pytest.approx(jackknife_interval(score.value, left_out), rel=1e-7)


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("name", SCORES)
def test_few_pictures_have_a_value_and_no_interval(name: str, number: int) -> None:
    score = SCORES[name](rows(number), rows(9, seed=1))
    assert math.isfinite(score.value)
    assert score.interval is None


@pytest.mark.parametrize("name", SCORES)
def test_no_interval_is_a_point(name: str) -> None:
    real = rows(9, seed=1)
    for number in range(2, 24):
        interval = SCORES[name](rows(number), real).interval
        assert interval is None or interval[1] - interval[0] > 1e-9
    for copies in (4, 5, 40):
        assert SCORES[name](rows(1).repeat(copies, axis=0), real).interval is None


def test_groups_that_agree_tell_of_no_spread() -> None:
    assert left_out_interval(1.0, []) is None
    assert left_out_interval(1.0, [0.5, 0.5]) is None
    assert left_out_interval(1e6, [1e6, 1e6 + 1e-6]) is None
    assert left_out_interval(1.0, [0.5, 0.6]) == jackknife_interval(1.0, [0.5, 0.6])


def test_neighbourhoods_are_the_pure_functions_with_bootstrap_intervals() -> None:
    fake, real = rows(23) * 0.8 + 1, rows(31, seed=1)
    found = neighbourhoods(fake, real, seed=3)
    scores = {score.metric: score for score in found.scores}
    precision, recall = precision_recall(real, fake, k=3)
    density, coverage = density_coverage(real, fake, k=5)
    values = {"precision": precision, "recall": recall, "density": density, "coverage": coverage}
    assert 0 < precision < 1
    assert 0 < recall < 1
    assert {name: score.value for name, score in scores.items()} == pytest.approx(values)
    assert [score.n for score in found.scores] == [23, 31, 23, 31]
    near = slow_inside(torch.from_numpy(fake).double(), torch.from_numpy(real).double(), 5).double()
    assert found.density.tolist() == (near.sum(1) / 5).tolist()
    assert scores["density"].interval == mean_interval(near.sum(1) / 5, seed=3)
    assert scores["coverage"].interval == mean_interval(near.amax(0), seed=3)


@pytest.mark.parametrize(("fakes", "reals"), [(3, 30), (30, 5)])
def test_too_few_for_neighbours_is_one_line(fakes: int, reals: int) -> None:
    with pytest.raises(ValueError, match=f"found {fakes} generated and {reals} real .* 4 and 6"):
        neighbourhoods(rows(fakes), rows(reals, seed=1), seed=0)
    neighbourhoods(rows(max(fakes, 4)), rows(max(reals, 6), seed=1), seed=0)
