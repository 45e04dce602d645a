"""PAK-UCB and RFF-UCB: what a score will be, and how sure that is, by kernel ridge regression.

"PAK-UCB Contextual Bandit: An Online Learning Approach to Prompt-Aware Selection of Generative
Models and LLMs", Xiaoyan Hu, Ho-fung Leung and Farzan Farnia, 2024, arXiv 2410.13287.

For each arm alone, on the contexts y_1 ... y_n it was chosen for and their scores v:

    mu      = k_y^T (K + alpha I)^-1 v
    sigma^2 = (k(y, y) - k_y^T (K + alpha I)^-1 k_y) / alpha      K_ij = k(y_i, y_j)
    choose the arm of the largest mu + eta sigma

With random features the cost of a step is that of their number squared, however long the history:

    phi(y)  = D^(-1/2) [cos(W y), sin(W y)]        rows of W ~ N(0, I / width^2)
    A       = sum phi phi^T + alpha I              theta = A^-1 sum v phi
    mu      = theta^T phi                          sigma^2 = phi^T A^-1 phi

All in float64. Deviations: the factor of ``K + alpha I`` grows by rows, where the paper updates the
inverse by blocks: the same numbers, and no difference is divided by that could vanish. The authors'
code departs from these equations (first visit, bandwidth and norm of phi); the equations hold here.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt

import torch
from torch import Tensor

from guidance.core.schedule import check_number


@dataclass(frozen=True)
class Estimate:
    """Mean ``mu`` and deviation ``sigma`` of an arm's score for a context."""

    mean: float
    deviation: float


def grow(factor: Tensor, cross: Tensor, own: Tensor, alpha: float) -> Tensor:
    """Cholesky factor of ``K + alpha I`` with one context more.

    Args:
        factor: lower factor ``(n, n)`` without it.
        cross: its kernel with the contexts before, ``(n,)``.
        own: its kernel with itself, a scalar.
        alpha: ridge above 0.

    Returns:
        ``(n + 1, n + 1)``.
    """
    row = torch.linalg.solve_triangular(factor, cross[:, None], upper=False)[:, 0]
    # The Schur complement is alpha at least, but for rounding.
    corner = (own + alpha - row @ row).clamp(min=alpha).sqrt()
    above = torch.cat([factor, factor.new_zeros(len(factor), 1)], dim=1)
    return torch.cat([above, torch.cat([row, corner[None]])[None]])


def posterior(
    factor: Tensor, cross: Tensor, own: Tensor, rewards: Tensor, alpha: float
) -> Estimate:
    """Kernel ridge regression at one context.

    Args:
        factor: lower Cholesky factor ``(n, n)`` of ``K + alpha I``.
        cross: ``k_y``, kernel of the context with those of the history, ``(n,)``.
        own: ``k(y, y)``, a scalar.
        rewards: ``v``, ``(n,)``.
        alpha: ridge above 0.

    Source: the first equations at the top of this file.
    """
    both = torch.stack([cross, rewards], dim=1)
    k, v = torch.linalg.solve_triangular(factor, both, upper=False).unbind(1)
    variance = (own - k @ k).clamp(min=0) / alpha
    return Estimate((k @ v).item(), variance.sqrt().item())


def frequencies(features: int, dimension: int, width: float, generator: torch.Generator) -> Tensor:
    """``W`` of the random features: ``(D, dimension)`` in float64."""
    shape = (features, dimension)
    return torch.randn(shape, generator=generator, dtype=torch.float64) / width


def fourier(contexts: Tensor, frequencies: Tensor) -> Tensor:
    """Random features ``phi`` of contexts ``(..., dimension)``: ``(..., 2 D)``, of norm 1."""
    phases = contexts @ frequencies.T
    return torch.cat([phases.cos(), phases.sin()], dim=-1) / sqrt(len(frequencies))


def sherman_morrison(inverse: Tensor, phi: Tensor) -> Tensor:
    """``(A + phi phi^T)^-1`` from ``A^-1 (F, F)`` and ``phi (F,)``."""
    u = inverse @ phi
    return inverse - torch.outer(u, u) / (1 + phi @ u)


def exploration(arms: int, rounds: int = 1, delta: float = 0.05) -> float:
    """The ``eta`` of the paper's guarantee: ``sqrt(2 log(2 rounds arms / delta))``.

    The guarantee for random features leaves ``rounds`` at 1. With 5 arms and 5000 rounds it is
    5.26, at which most of a few hundred rounds explore.
    """
    return sqrt(2 * log(2 * rounds * arms / delta))


@dataclass(frozen=True)
class RBF:
    """Kernel ``exp(-|x - y|^2 / (2 width^2))``; embeddings of norm 1 are at most 2 apart."""

    width: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", positive("RBF", "width", self.width))

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Kernel ``(n, m)`` of ``(n, D)`` and ``(m, D)``."""
        apart = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        return (-apart.square() / (2 * self.width**2)).exp()


@dataclass(frozen=True)
class Polynomial:
    """Kernel ``(gain <x, y> + offset)^degree``; degree 1, gain 1 and offset 0 make it linear.

    Deviations are in units of ``sqrt(k(y, y))``, 2.8 by default and 36 at gain 10, which asks for
    an ``eta`` that much smaller than with an RBF, where it is 1.
    """

    degree: int = 3
    gain: float = 1.0
    offset: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "degree", whole("Polynomial", "degree", self.degree))
        object.__setattr__(self, "gain", positive("Polynomial", "gain", self.gain))
        offset = check_number("Polynomial", "offset", self.offset)
        object.__setattr__(self, "offset", offset)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Kernel ``(n, m)`` of ``(n, D)`` and ``(m, D)``."""
        return (self.gain * x @ y.T + self.offset) ** self.degree


@dataclass(frozen=True)
class RandomFourier:
    """``RBF(width)`` by ``2 features`` random features: for long histories."""

    width: float = 1.0
    features: int = 200

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", positive("RandomFourier", "width", self.width))
        object.__setattr__(self, "features", whole("RandomFourier", "features", self.features))


def positive(owner: str, name: str, value: object) -> float:
    """The value as a float; raises one line when it is not a finite number above 0."""
    number = check_number(owner, name, value)
    if number == 0:
        raise ValueError(f"{owner}: {name} must be above 0, found 0")
    return number


def whole(owner: str, name: str, value: object, low: int = 1) -> int:
    """The value as an int; raises one line when it is not a whole number from ``low`` up."""
    number = check_number(owner, name, value, low)
    if not number.is_integer():
        raise ValueError(f"{owner}: {name} must be whole, found {number:g}")
    return int(number)
