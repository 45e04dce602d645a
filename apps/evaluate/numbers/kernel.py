"""Kernel distance of two sets of features, also without a part of one of them.

``k(x, y) = (x.y / D + 1)^3``, Binkowski et al., Demystifying MMD GANs, 2018, arXiv 1801.01401.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from apps.evaluate.numbers.arrays import Array, blocks, check_pair


def kernel_distance(real: Array, fake: Array) -> float:
    """Unbiased squared maximum mean discrepancy of two sets of at least 2 rows; may be negative.

    It is taken over all pairs: what the usual mean over random subsets estimates.

    Raises:
        ValueError: as ``frechet_distance``.
    """
    check_pair(real, fake)
    return KernelSums.of(real, [fake]).distance()


@dataclass(frozen=True)
class KernelSums:
    """Sums of the kernel over the pairs of a reference and of a set in G parts.

    Attributes:
        real: mean over pairs of different rows of the reference.
        across: (G,), mean over the reference of the sum over each part.
        within: (G, G), sum over pairs of different rows of two parts.
        sizes: (G,), number of rows of each part.
    """

    real: float
    across: Tensor
    within: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, real: Array, parts: Sequence[Array]) -> KernelSums:
        """In one pass over the pairs of rows (N, D)."""
        within = torch.zeros(len(parts), len(parts), dtype=torch.float64)
        for row, part in enumerate(parts):
            within[row, row] = _sum_of_different(part)
            for column in range(row):
                within[row, column] = within[column, row] = _sum(part, parts[column])
        return cls(
            _sum_of_different(real) / (len(real) * (len(real) - 1)),
            torch.tensor([_sum(real, part) / len(real) for part in parts], dtype=torch.float64),
            within,
            torch.tensor([len(part) for part in parts], dtype=torch.float64),
        )

    def distance(self) -> float:
        """Distance of the whole set."""
        count = self.sizes.sum()
        own = self.within.sum() / (count * (count - 1))
        return float(self.real + own - 2 * self.across.sum() / count)

    def left_out(self) -> list[float]:
        """Distance of the set without each of its parts."""
        count = self.sizes.sum() - self.sizes
        own = self.within.sum() - 2 * self.within.sum(1) + self.within.diag()
        across = (self.across.sum() - self.across) / count
        found: list[float] = (self.real + own / (count * (count - 1)) - 2 * across).tolist()
        return found


def _sum_of_different(features: Array) -> float:
    own = sum(_kernel(x.square().sum(1), x.shape[1]).sum().item() for x in blocks(features))
    return _sum(features, features) - own


def _sum(a: Array, b: Array) -> float:
    return sum(_kernel(x @ y.T, x.shape[1]).sum().item() for x in blocks(a) for y in blocks(b))


def _kernel(products: Tensor, dimension: int) -> Tensor:
    return (products / dimension + 1) ** 3
