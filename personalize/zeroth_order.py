"""Gradients without backpropagation, and what makes them less noisy.

"Efficient Personalization of Quantized Diffusion Model without Backpropagation", Hoigi Seo, Wongi
Jeong, Kyungryeol Lee and Se Young Chun, 2025, arXiv 2503.14868, equations 3 to 9 and algorithms 1
and 2. The estimate is that of Nesterov and Spokoiny, 2017.

    g  = 1/n sum_i (L(theta + mu e_i) - L(theta)) / mu * e_i           e_i ~ N(0, I)
    g' = g (I - P^T P)          rows of P: the directions of the least variance of past tokens

Deviations: directions along which the history does not vary at all, which rounding makes up after
centring, are not removed; the authors' code removes one of them at random.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gradient_estimate(
    loss: Callable[[Tensor], float | Tensor], theta: Tensor, directions: Tensor, mu: float
) -> Tensor:
    """One-sided random gradient estimate from n + 1 evaluations of a loss.

    Args:
        loss: of parameters like ``theta`` to a number; the same sample and noise at every call.
        theta: parameters of any shape, in float32 or float64: perturbations vanish in less.
        directions: n normal directions ``(n, *theta.shape)``.
        mu: length of the perturbation above 0, relative to the directions.

    Returns:
        The estimate, in the shape and dtype of ``theta``. Its squared norm is about
        ``(d + n + 1) / n`` of the gradient's, see ``norm_correction``.

    Raises:
        ValueError: directions of another shape, mu not above 0, or a theta in half precision.

    Source: equation 3 of the paper.
    """
    if directions.ndim != theta.ndim + 1 or directions.shape[1:] != theta.shape:
        raise ValueError(
            f"directions must be (n, {', '.join(map(str, theta.shape))}), found "
            f"{tuple(directions.shape)}"
        )
    if not mu > 0:
        raise ValueError(f"mu must be above 0, found {mu}")
    if theta.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"theta must be float32 or float64, found {theta.dtype}")
    base = float(loss(theta))
    slopes = [(float(loss(theta + mu * e)) - base) / mu for e in directions]
    weights = theta.new_tensor(slopes) / len(slopes)
    with torch.autocast(theta.device.type, enabled=False):  # which may be on for the loss
        return torch.tensordot(weights, directions.to(theta.dtype), dims=1)


def norm_correction(dimensions: int, evaluations: int) -> float:
    """What the authors' code divides an estimate by, ``sqrt((d + n - 1) / n)``.

    Args:
        dimensions: d, of the space that is left of the parameters after projection.
        evaluations: n.
    """
    return float(((dimensions + evaluations - 1) / evaluations) ** 0.5)


def removed_directions(history: Tensor, nu: float) -> Tensor:
    """P: orthonormal directions of the least variance of past parameters, ``(rows, d)``.

    Args:
        history: parameters after each of the last steps, ``(steps, d)``.
        nu: share of the variance to give up, 0.001 in the paper; from 1 up all but the first
            direction, and 0 nothing.

    Source: equations 4 to 7 of the paper.
    """
    deviation = history.double() - history.double().mean(0)
    spread = deviation.square().mean(0).sqrt()
    # A column of equals differs from its mean by rounding alone, which is no variance.
    constant = (history == history[:1]).all(0)
    normed = torch.where(constant, 0.0, deviation / torch.where(spread > 0, spread, 1.0))
    _, s, v = torch.linalg.svd(normed, full_matrices=False)
    variance = s.square()
    total = variance.sum()
    if not bool(total > 0):
        return history.new_zeros(0, history.shape[1])
    kept = int((variance.cumsum(0) / total <= 1 - nu).sum()) + 1
    real = int((s > torch.finfo(s.dtype).eps * max(normed.shape) * s[0]).sum())
    return v[min(kept, real) : real].to(history.dtype)


def subspace_gradient(grad: Tensor, history: Tensor, nu: float) -> Tensor:
    """A gradient without the directions in which the parameters hardly moved of late.

    Args:
        grad: ``(d,)``, or several ``(..., d)``.
        history: parameters after each of the last steps, ``(steps, d)``.
        nu: see ``removed_directions``.

    Returns:
        The gradient ``g (I - P^T P)`` in the shape and dtype of ``grad``.

    Raises:
        ValueError: a history of another width.

    Source: equation 8 of the paper.
    """
    if history.ndim != 2 or history.shape[1] != grad.shape[-1]:
        raise ValueError(f"history must be (steps, {grad.shape[-1]}), found {tuple(history.shape)}")
    return without(grad, removed_directions(history, nu))


def without(grad: Tensor, directions: Tensor) -> Tensor:
    """A gradient ``(..., d)`` without orthonormal directions ``(rows, d)``."""
    p = directions.to(grad.dtype)
    with torch.autocast(grad.device.type, enabled=False):
        return grad - (grad @ p.T) @ p


def partial_uniform_timesteps(
    n: int, low: int, high: int, generator: torch.Generator | None = None
) -> Tensor:
    """n training timesteps from the part of the noise levels that shapes a subject.

    Args:
        n: how many.
        low, high: ``low <= t < high``; 500 and 900 of 1000 in the paper, 700 up for SDXL.
        generator: source of randomness, on its own device.

    Returns:
        Whole numbers ``(n,)``, int64.

    Raises:
        ValueError: an empty range.

    Source: equation 9 of the paper.
    """
    if not 0 <= low < high:
        raise ValueError(f"timesteps must have 0 <= low < high, found low={low} and high={high}")
    device = "cpu" if generator is None else generator.device
    return torch.randint(low, high, (n,), generator=generator, device=device)
