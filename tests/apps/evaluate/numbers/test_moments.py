"""Frechet distances against closed forms, and moments that add and subtract."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from apps.evaluate.numbers.moments import BLOCK, Moments, frechet


def draw(rows: int, dimension: int, seed: int = 0) -> Tensor:
    """Rows of correlated Gaussian features that are not centred."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    return torch.randn(rows, dimension, generator=generator, dtype=torch.float64) @ mix + 3


def distance(a: Tensor, b: Tensor) -> float:
    return frechet(Moments.of(a), Moments.of(b))


def textbook(a: Tensor, b: Tensor) -> float:
    """The formula as it stands, with a general matrix root."""
    first, second = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    trace = np.trace(first + second - 2 * sqrtm(first @ second).real)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + trace)


def by_rows(a: Tensor, b: Tensor) -> float:
    """The formula without covariances: the root's trace from the rows' products alone."""
    x, y = a - a.mean(0), b - b.mean(0)
    root = torch.linalg.svdvals(x @ y.T).sum() / ((len(a) - 1) * (len(b) - 1)) ** 0.5
    spread = x.square().sum() / (len(a) - 1) + y.square().sum() / (len(b) - 1)
    return float((a.mean(0) - b.mean(0)).square().sum() + spread - 2 * root)


def same(a: Moments, b: Moments) -> bool:
    return (
        a.count == b.count
        and torch.allclose(a.mean, b.mean, rtol=1e-11)
        and torch.allclose(a.scatter, b.scatter, rtol=1e-10, atol=1e-9)
    )


def test_moments_are_those_of_numpy() -> None:
    features = draw(BLOCK + 300, 6)
    found = Moments.of(features)
    assert found.count == BLOCK + 300
    assert np.allclose(found.mean, features.numpy().mean(0), rtol=1e-12)
    assert np.allclose(found.covariance, np.cov(features.numpy(), rowvar=False), rtol=1e-11)


@pytest.mark.parametrize("cuts", [(1,), (7, 30), (1, 2, 3, 99)])
def test_the_sum_of_parts_in_any_order_is_the_whole(cuts: tuple[int, ...]) -> None:
    features = draw(100, 5)
    parts = [Moments.of(part) for part in features.tensor_split(cuts)]
    for order in itertools.permutations(parts):
        total = order[0]
        for part in order[1:]:
            total = total + part
        assert same(total, Moments.of(features))


def test_sums_keep_their_digits_far_from_the_origin() -> None:
    features = draw(100, 3) + 1e6
    total = Moments.of(features[:40]) + Moments.of(features[40:])
    assert torch.allclose(total.covariance, Moments.of(features - 1e6).covariance, rtol=1e-8)


def test_a_difference_is_the_rest() -> None:
    features = draw(100, 5)
    assert same(Moments.of(features) - Moments.of(features[:7]), Moments.of(features[7:]))


@pytest.mark.parametrize("rows", [100, 101])
def test_a_difference_leaves_rows(rows: int) -> None:
    whole = Moments.of(draw(100, 2))
    with pytest.raises(ValueError, match=f"{rows} of 100 rows are taken away"):
        whole - Moments.of(draw(rows, 2))


def test_weighted_rows_are_repeated_rows() -> None:
    features = draw(2 * BLOCK, 4)
    weights = torch.arange(2 * BLOCK) % 3
    weights[:BLOCK] = 0
    repeated = features.repeat_interleave(weights, dim=0)
    assert same(Moments.of(features, weights), Moments.of(repeated))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_dtype_is_summed_in_float64(dtype: torch.dtype) -> None:
    features = draw(3000, 4).to(dtype).requires_grad_()
    assert same(Moments.of(features), Moments.of(features.detach().double()))


def test_arrays_on_disk_are_read(tmp_path: Path) -> None:
    features = draw(50, 4).float().numpy()
    np.save(tmp_path / "features.npy", features)
    stored = np.load(tmp_path / "features.npy", mmap_mode="r")
    assert same(Moments.of(stored), Moments.of(torch.from_numpy(features)))


def test_one_row_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="at least 2 rows, found 1"):
        _ = Moments.of(draw(1, 3)).covariance


@pytest.mark.parametrize("seed", range(5))
def test_the_distance_is_the_textbook_formula(seed: int) -> None:
    a, b = draw(60, 5, seed) * 2 + 1, draw(80, 5, seed + 100)
    assert distance(a, b) == pytest.approx(textbook(a, b), rel=1e-9)
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-12)


def test_a_translation_costs_its_squared_length() -> None:
    features, step = draw(200, 6), torch.tensor([1.0, -2, 3, 0, 0.5, 0])
    assert distance(features, features + step) == pytest.approx(step.square().sum().item())


def test_independent_features_differ_by_their_deviations() -> None:
    """Sum of ``(s1 - s2)^2``, for sets whose covariance is diagonal: corners of boxes."""
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
    one, two = torch.tensor([1.0, 2, 3]), torch.tensor([4.0, 2, 0])
    expected = (one - two).square().sum().item() * 8 / 7
    assert distance(corners * one, corners * two) == pytest.approx(expected, rel=1e-12)


def test_a_rotation_of_both_changes_nothing() -> None:
    a, b = draw(60, 5), draw(80, 5, seed=1)
    turn = torch.linalg.qr(draw(5, 5, seed=2)).Q
    assert distance(a @ turn, b @ turn) == pytest.approx(distance(a, b), rel=1e-10)


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
@pytest.mark.parametrize(("first", "second"), [(30, 30), (5, 300), (300, 30)])
def test_the_distance_of_few_rows_is_exact(first: int, second: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(first, 128, generator=generator, dtype=torch.float64) * scale
    b = torch.rand(second, 128, generator=generator, dtype=torch.float64) * scale
    assert distance(a, b) == pytest.approx(by_rows(a, b), rel=1e-10)
    assert distance(a, a) == pytest.approx(0, abs=1e-11 * scale**2)


def test_2048_features_of_few_rows_are_at_no_distance_from_themselves() -> None:
    features = torch.randn(100, 2048, generator=torch.Generator().manual_seed(0)).abs() * 30
    found = Moments.of(features)
    assert abs(frechet(found, found)) < 1e-6


def test_what_a_subset_leaves_is_at_no_distance_from_the_rest() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(60, 200, generator=generator, dtype=torch.float64)
    rest = Moments.of(features) - Moments.of(features[:20])
    assert frechet(rest, Moments.of(features[20:])) == pytest.approx(0, abs=1e-6)


def test_constant_features_are_at_the_distance_of_their_means() -> None:
    flat = torch.ones(4, 3)
    assert distance(flat, flat) == 0
    assert distance(flat, flat + 2) == 12
    assert math.isclose(distance(flat, torch.eye(3)), 3 * (1 - 1 / 3) ** 2 + 1)
