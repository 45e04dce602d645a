"""Measures against closed forms, constructed readings and slow references."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from apps.claims.metrics import (
    Frechet,
    detail,
    group_means,
    interval,
    means,
    read_values,
    resamples,
    similarity,
    spread,
)
from apps.claims.requests import Request
from apps.emblem import Emblem, Scene
from tests.apps.emblem.test_score import reading

RED = Emblem("star", "red", "striped", "large")
BLUE = Emblem("star", "blue", "striped", "large")
ASKED = Request("a striped star on a white background", "a red star", ("colour", "red"))


def test_accuracy_and_leakage_of_constructed_readings() -> None:
    seen = reading(Scene((RED,), "white"), Scene((BLUE,), "white"), Scene((BLUE,), "green"))
    values = read_values(seen, [ASKED] * 3)
    assert values["accuracy"].tolist() == [1, 1, 0]
    assert values["leakage"].tolist() == [1, 0, 0]
    assert values["background"].tolist() == [1, 1, 0]
    assert values["texture"].tolist() == [1, 1, 1]
    assert all(math.isnan(value) for value in values["colour"].tolist())


def test_leakage_is_seen_in_the_second_emblem_too() -> None:
    pair = Request("a star on the left and a star on the right", "a red star", ("colour", "red"))
    seen = reading(Scene((BLUE, RED), "white"), Scene((BLUE, BLUE), "white"))
    assert read_values(seen, [pair] * 2)["leakage"].tolist() == [1, 0]


def test_an_unrecognisable_picture_is_neither_right_nor_leaking() -> None:
    values = read_values(reading(Scene((RED,), "white"), told=False), [ASKED])
    assert values["valid"].tolist() == values["accuracy"].tolist() == [0]
    assert values["leakage"].tolist() == [0]


def test_half_of_two_statements_right_is_a_half() -> None:
    request = Request("a red star on the left and a red star on the right")
    values = read_values(reading(Scene((RED, BLUE), "white")), [request])
    assert values["colour"].tolist() == [0.5]
    assert values["accuracy"].tolist() == [0]
    assert "leakage" not in values


def test_without_a_prompt_only_validity_is_read() -> None:
    values = read_values(reading(Scene((RED,), "white")), [Request("")])
    assert {name: value.tolist() for name, value in values.items()} == {"valid": [1]}


def _slow_frechet(a: torch.Tensor, b: torch.Tensor) -> float:
    first, second = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    trace = np.trace(first + second - 2 * sqrtm(first @ second).real)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + trace)


def test_frechet_is_the_textbook_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(60, 5, generator=generator, dtype=torch.float64) * 2 + 1
    b = torch.randn(80, 5, generator=generator, dtype=torch.float64)
    assert Frechet(b)(a) == pytest.approx(_slow_frechet(a, b), rel=1e-9)
    assert Frechet(b)(b) == pytest.approx(0, abs=1e-9)
    assert Frechet(b)(b + 3) == pytest.approx(5 * 9)


def test_frechet_of_weighted_features_is_that_of_repeated_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    features, reference = torch.randn(2, 30, 4, generator=generator)
    weights = torch.arange(30) % 3
    repeated = features.repeat_interleave(weights, dim=0)
    assert Frechet(reference)(features, weights) == pytest.approx(Frechet(reference)(repeated))


def test_frechet_of_fewer_pictures_than_features_is_finite() -> None:
    features = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    assert 0 <= Frechet(features)(features + 1) < math.inf


def test_resamples_draw_as_many_groups_as_there_are() -> None:
    counts = resamples(10, seed=3, count=50)
    assert counts.sum(1).tolist() == [10] * 50
    assert torch.equal(counts, resamples(10, seed=3, count=50))
    assert not torch.equal(counts, resamples(10, seed=4, count=50))


def test_means_leave_out_what_does_not_apply() -> None:
    values = group_means(torch.tensor([1.0, 0.0, math.nan, 1.0, math.nan, math.nan]))
    assert values[:2].tolist() == [0.5, 1.0]
    assert math.isnan(values[2])
    counts = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]], dtype=torch.float64)
    assert means(values, counts).tolist() == [0.75, 0.5]


def test_the_interval_is_that_of_the_normal_law() -> None:
    """A mean of n numbers has standard error s / sqrt(n), and 95 % lie within 1.96 of them."""
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = interval(means(values, resamples(400, seed=0, count=4000)))
    error = values.std(correction=0).item() / 20
    assert low == pytest.approx(values.mean().item() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean().item() + 1.96 * error, abs=0.1 * error)


def test_the_interval_covers_the_truth() -> None:
    counts = resamples(60, seed=0, count=400)
    covered = 0
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        values = (torch.rand(60, generator=generator) < 0.7).double()
        low, high = interval(means(values, counts))
        covered += low <= 0.7 <= high
    assert 0.88 <= covered / 200 <= 0.98


def test_spread_and_detail_have_their_closed_forms() -> None:
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0], [1.0, 1.0]])
    assert spread(features).tolist() == [5.0, 0.0]
    flat, board = torch.zeros(1, 3, 8, 8), torch.ones(8, 8)
    board[::2, ::2] = board[1::2, 1::2] = -1
    images = torch.cat([flat + 0.3, board.expand(1, 3, 8, 8)])
    smooth, fine = detail(images).tolist()
    assert smooth == pytest.approx(0, abs=1e-12)
    assert fine == pytest.approx((8 / 9) ** 2, rel=0.4)  # inside; the edges differ


def test_similarity_is_one_for_the_same_picture_and_less_for_others() -> None:
    pytest.importorskip("torchmetrics")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert similarity(images, images).tolist() == pytest.approx([1, 1])
    assert similarity(images, images.flip(0)).max() < 0.5
