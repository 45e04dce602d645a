"""What a bandit keeps of one arm: its ``History``, or ``Moments`` in random features.

Equations, and the paper, are in ``guidance.kernel_bandit``. Both are values: an observation makes a
new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from guidance.kernel_bandit import RBF, Estimate, Polynomial, grow, posterior, sherman_morrison


@dataclass(frozen=True)
class History:
    """What an arm has seen, for an exact kernel; begins empty.

    Attributes:
        kernel, alpha: of the regression.
        limit: how many observations are kept, None for all.
        contexts, rewards: ``(n, D)`` and ``(n,)``, oldest first.
        factor: lower Cholesky factor ``(n, n)`` of ``K + alpha I``.
    """

    kernel: RBF | Polynomial
    alpha: float
    limit: int | None
    contexts: Tensor
    rewards: Tensor
    factor: Tensor

    @classmethod
    def empty(
        cls, kernel: RBF | Polynomial, alpha: float, limit: int | None, dimension: int
    ) -> History:
        """Before the first observation; contexts will have this dimension."""
        nothing = torch.zeros(0, dimension, dtype=torch.float64)
        return cls(kernel, alpha, limit, nothing, nothing.new_zeros(0), nothing.new_zeros(0, 0))

    def observed(self, context: Tensor, reward: float) -> History:
        """With one observation more, and without the oldest where that makes too many."""
        contexts = torch.cat([self.contexts, context[None]])
        rewards = torch.cat([self.rewards, self.rewards.new_tensor([reward])])
        if self.limit is None or len(rewards) <= self.limit:
            factor = grow(self.factor, *self._kernels(context), self.alpha)
        else:
            contexts, rewards = contexts[1:].clone(), rewards[1:].clone()
            ridge = self.alpha * torch.eye(self.limit, dtype=torch.float64)
            gram = self.kernel(contexts, contexts) + ridge
            factor = torch.linalg.cholesky(gram).contiguous()
        return replace(self, contexts=contexts, rewards=rewards, factor=factor)

    def estimate(self, context: Tensor) -> Estimate:
        """Of the score for a context ``(D,)``."""
        return posterior(self.factor, *self._kernels(context), self.rewards, self.alpha)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What ``restored`` takes."""
        return {"contexts": self.contexts, "rewards": self.rewards, "factor": self.factor}

    def restored(self, tensors: Mapping[str, Tensor]) -> History:
        """With saved tensors; raises ValueError where they do not fit."""
        count = tensors["rewards"].numel()
        shapes = {
            "contexts": (count, self.contexts.shape[1]),
            "rewards": (count,),
            "factor": (count, count),
        }
        kept = fitting(tensors, shapes)
        return replace(
            self, contexts=kept["contexts"], rewards=kept["rewards"], factor=kept["factor"]
        )

    def _kernels(self, context: Tensor) -> tuple[Tensor, Tensor]:
        y = context[None]
        return self.kernel(self.contexts, y)[:, 0], self.kernel(y, y)[0, 0]


@dataclass(frozen=True)
class Moments:
    """What an arm has seen, in random features.

    Attributes:
        inverse: ``A^-1``, ``(F, F)``.
        target: sum of ``reward phi``, ``(F,)``.
    """

    inverse: Tensor
    target: Tensor

    @classmethod
    def empty(cls, alpha: float, features: int) -> Moments:
        """Before the first observation."""
        inverse = torch.eye(features, dtype=torch.float64) / alpha
        return cls(inverse, inverse.new_zeros(features))

    def observed(self, phi: Tensor, reward: float) -> Moments:
        """With one observation more."""
        return Moments(sherman_morrison(self.inverse, phi), self.target + reward * phi)

    def estimate(self, phi: Tensor) -> Estimate:
        """Of the score for features ``(F,)``."""
        u = self.inverse @ phi
        return Estimate((self.target @ u).item(), (phi @ u).clamp(min=0).sqrt().item())

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What ``restored`` takes."""
        return {"inverse": self.inverse, "target": self.target}

    def restored(self, tensors: Mapping[str, Tensor]) -> Moments:
        """With saved tensors; raises ValueError where they do not fit."""
        shapes = {"inverse": self.inverse.shape, "target": self.target.shape}
        return Moments(**fitting(tensors, shapes))


def fitting(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """The tensors, if they have these names and shapes and are finite; raises ValueError else."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != {name: tuple(shape) for name, shape in shapes.items()}:
        raise ValueError(f"its arrays do not fit: expected {dict(shapes)}, found {found}")
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError("its arrays are not finite")
    return dict(tensors)
