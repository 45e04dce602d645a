"""Zeroth-order estimates against the closed forms of quadratics and waves."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from personalize.zeroth_order import (
    gradient_estimate,
    norm_correction,
    partial_uniform_timesteps,
    removed_directions,
    subspace_gradient,
)


def _rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


A = _rand(5, 5, seed=1) + _rand(5, 5, seed=1).T
B, THETA = _rand(5, seed=2), _rand(5, seed=3)


def _quadratic(theta: Tensor) -> float:
    return float(0.5 * theta @ A @ theta + B @ theta)


@pytest.mark.parametrize("mu", [1e-3, 0.5, 2.0])
def test_a_quadratic_has_its_slopes_and_half_its_curvature(mu: float) -> None:
    e = _rand(4, 5, seed=4)
    grad = A @ THETA + B
    exact = torch.stack([(d @ grad + mu / 2 * d @ A @ d) * d for d in e]).mean(0)
    torch.testing.assert_close(gradient_estimate(_quadratic, THETA, e, mu), exact)


def test_mirrored_directions_cancel_the_curvature() -> None:
    e = _rand(3, 5, seed=4)
    found = gradient_estimate(_quadratic, THETA, torch.cat([e, -e]), 0.7)
    torch.testing.assert_close(found, torch.stack([(d @ (A @ THETA + B)) * d for d in e]).mean(0))


def test_scaled_axes_give_the_gradient() -> None:
    axes = math.sqrt(5) * torch.eye(5, dtype=torch.float64)
    found = gradient_estimate(lambda theta: float(B @ theta), THETA, axes, 0.1)
    torch.testing.assert_close(found, B)


def test_on_average_it_is_the_gradient_of_the_smoothed_loss() -> None:
    mu, theta = 0.8, torch.tensor([0.3, -1.1, 2.0], dtype=torch.float64)
    e = _rand(20_000, 3, seed=5)
    found = gradient_estimate(lambda x: float(x.cos().sum()), theta, e, mu)
    smoothed = -math.exp(-(mu**2) / 2) * theta.sin()
    torch.testing.assert_close(found, smoothed, rtol=0, atol=0.05)


def test_norm_of_an_estimate_of_a_linear_loss() -> None:
    n, d = 3, 40
    b = _rand(d, seed=6)
    squares = [
        float(gradient_estimate(lambda x: float(b @ x), b, _rand(n, d, seed=s), 1.0).square().sum())
        for s in range(2000)
    ]
    expected = (d + n + 1) / n * float(b.square().sum())
    assert float(np.mean(squares)) == pytest.approx(expected, rel=0.05)
    assert norm_correction(d, n) == math.sqrt((d + n - 1) / n)


def test_the_loss_is_called_once_more_than_there_are_directions() -> None:
    seen: list[Tensor] = []

    def loss(theta: Tensor) -> Tensor:
        assert not theta.requires_grad
        seen.append(theta.clone())
        return theta.square().sum()

    theta, e = _rand(2, 3), _rand(4, 2, 3, seed=1)
    before = theta.clone()
    found = gradient_estimate(loss, theta, e, 0.5)
    assert found.shape == theta.shape and torch.equal(theta, before)
    torch.testing.assert_close(torch.stack(seen), torch.cat([theta[None], theta + 0.5 * e]))


def test_steps_in_the_loss_vanish_below_their_width_and_show_above_it() -> None:
    def stairs(theta: Tensor) -> float:
        return float((theta * 4).floor().sum() / 4)

    theta = torch.full((6,), 0.6, dtype=torch.float64)
    assert not gradient_estimate(stairs, theta, _rand(4, 6), 1e-6).any()
    wide = gradient_estimate(stairs, theta, _rand(4000, 6), 1.0)
    torch.testing.assert_close(wide, torch.ones(6, dtype=torch.float64), rtol=0, atol=0.15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mu": 0.0}, "mu must be above 0, found 0.0"),
        ({"mu": math.nan}, "mu must be above 0"),
        ({"directions": torch.ones(3, 4)}, r"directions must be \(n, 5\), found \(3, 4\)"),
        ({"directions": torch.ones(5)}, "directions must be"),
        ({"theta": THETA.half()}, "float32 or float64, found torch.float16"),
    ],
)
def test_what_cannot_be_estimated_is_refused(changes: dict[str, object], message: str) -> None:
    settings = {"theta": THETA, "directions": _rand(2, 5), "mu": 0.1}
    with pytest.raises(ValueError, match=message):
        gradient_estimate(_quadratic, **settings | changes)  # type: ignore[arg-type]


def _slow_removed(history: Tensor, nu: float) -> np.ndarray:
    """Equations 4 to 7 by the covariance instead of the singular value decomposition."""
    b = history.numpy()
    spread = b.std(0)
    normed = (b - b.mean(0)) / np.where(spread == 0, 1, spread)
    values, vectors = np.linalg.eigh(normed.T @ normed)
    values, vectors = values[::-1], vectors[:, ::-1]
    share = np.cumsum(values) / values.sum()
    first = int(np.argmax(share > 1 - nu)) + 1
    rank = min(len(b) - 1, b.shape[1])
    return vectors[:, first:rank] @ vectors[:, first:rank].T


@pytest.mark.parametrize("nu", [0.001, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("shape", [(6, 20), (30, 8)])
def test_the_least_varying_directions_are_those_of_the_covariance(
    nu: float, shape: tuple[int, int]
) -> None:
    history = _rand(*shape, seed=7).cumsum(0)
    p = removed_directions(history, nu)
    torch.testing.assert_close(p.T @ p, torch.from_numpy(_slow_removed(history, nu)))
    torch.testing.assert_close(p @ p.T, torch.eye(len(p), dtype=torch.float64))
    grad = _rand(shape[1], seed=8)
    kept = subspace_gradient(grad, history, nu)
    torch.testing.assert_close(p @ kept, torch.zeros(len(p), dtype=torch.float64))
    torch.testing.assert_close(subspace_gradient(kept, history, nu), kept)
    torch.testing.assert_close(grad - kept, p.T @ (p @ grad))


def test_more_is_removed_with_a_larger_share() -> None:
    history = _rand(12, 40, seed=9).cumsum(0)
    removed = [len(removed_directions(history, nu)) for nu in (0.0, 1e-3, 0.1, 0.9, 1.0, 2.0)]
    assert removed == sorted(removed)
    assert removed[0] == 0 and removed[-1] == removed[-2] == 12 - 2


def test_what_the_history_never_did_is_left_alone() -> None:
    history = torch.zeros(8, 5, dtype=torch.float64)
    history[:, :2] = _rand(8, 2, seed=10)
    p = removed_directions(history, 1.0)
    assert len(p) == 1 and not p[:, 2:].any()
    assert len(removed_directions(torch.full((8, 5), 0.1), 1.0)) == 0
    assert len(removed_directions(_rand(1, 5), 1.0)) == 0
    grad = _rand(5)
    assert torch.equal(subspace_gradient(grad, torch.full((8, 5), 0.1), 1.0), grad)


def test_a_history_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"history must be \(steps, 5\), found \(8, 4\)"):
        subspace_gradient(_rand(5), _rand(8, 4), 0.1)


def test_they_keep_their_precision_where_the_loss_has_less() -> None:
    theta, e, grad, history = THETA.float(), _rand(4, 5).float(), _rand(5).float(), _rand(8, 5)
    seen = []

    def loss(vector: Tensor) -> Tensor:
        seen.append((A.float() @ vector).dtype)
        return vector.square().sum()

    found = []
    for rounded in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            found += [gradient_estimate(loss, theta, e, 1e-2)]
            found += [subspace_gradient(grad, history.float(), 0.9)]
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])
    assert {*seen} == {torch.float32, torch.bfloat16}


def test_timesteps_fill_their_range_evenly() -> None:
    drawn = partial_uniform_timesteps(100_000, 500, 900, torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.int64 and drawn.shape == (100_000,)
    assert int(drawn.min()) == 500 and int(drawn.max()) == 899
    counts = torch.bincount(drawn - 500, minlength=400).double()
    assert float(counts.std()) < 1.2 * math.sqrt(100_000 / 400)
    again = partial_uniform_timesteps(100_000, 500, 900, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


@pytest.mark.parametrize(("low", "high"), [(5, 5), (9, 5), (-1, 5)])
def test_an_empty_range_is_refused(low: int, high: int) -> None:
    with pytest.raises(ValueError, match=f"found low={low} and high={high}"):
        partial_uniform_timesteps(3, low, high)


def test_descent_on_a_quadratic_needs_no_gradient() -> None:
    root = _rand(6, 6, seed=11)
    matrix = root @ root.T / 6 + torch.eye(6, dtype=torch.float64)
    goal = _rand(6, seed=12)

    def loss(theta: Tensor) -> float:
        return float(0.5 * (theta - goal) @ matrix @ (theta - goal))

    theta = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))
    adam = torch.optim.Adam([theta], lr=5e-3, eps=1e-3)
    start, generator = loss(theta.detach()), torch.Generator().manual_seed(13)
    for _ in range(3000):
        e = torch.randn(2, 6, generator=generator, dtype=torch.float64)
        theta.grad = gradient_estimate(loss, theta.detach(), e, 1e-3) / norm_correction(6, 2)
        adam.step()
    assert loss(theta.detach()) < 0.02 * start
