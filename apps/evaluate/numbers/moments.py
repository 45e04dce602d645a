"""Means and covariances of features in constant memory, and the Frechet distance of two of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from apps.evaluate.numbers.arrays import BLOCK, Array, blocks


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter of rows: ``a + b`` of both sets, ``a - b`` of ``a`` without ``b``.

    Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance, 1983, in float64.

    Attributes:
        count: number of rows, or sum of their weights.
        mean: (D,).
        scatter: (D, D), sum of the outer products of the centred rows.

    Raises:
        ValueError: ``a - b`` leaves no row.
    """

    count: float
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Array, weights: Tensor | None = None) -> Moments:
        """Moments of finite features (N, D), each counted ``weights`` (N,) times; N from 1 up."""
        counts = torch.ones(len(features)) if weights is None else weights
        parts = counts.to("cpu", torch.float64).split(BLOCK)
        count = float(sum(part.sum() for part in parts))
        sums = (w @ x for w, x in zip(parts, blocks(features), strict=True))
        mean = torch.stack(list(sums)).sum(0) / count
        scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        for w, x in zip(parts, blocks(features), strict=True):
            scatter.addmm_((x - mean).T * w, x - mean)
        return cls(count, mean, scatter)

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        if count <= 0:
            raise ValueError(f"{-other.count:g} of {self.count:g} rows are taken away; leave some")
        gap = other.mean - self.mean
        return Moments(
            count,
            self.mean + gap * (other.count / count),
            self.scatter + other.scatter + gap.outer(gap) * (self.count * other.count / count),
        )

    def __sub__(self, other: Moments) -> Moments:
        return self + Moments(-other.count, other.mean, -other.scatter)

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance (D, D).

        Raises:
            ValueError: of fewer than 2 rows.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 rows, found {self.count:g}")
        return self.scatter / (self.count - 1)

    @cached_property
    def root(self) -> Tensor:
        """R (D, rank) with ``R R^T`` the covariance; eigenvalues that are rounding are left out."""
        values, vectors = torch.linalg.eigh(self.covariance)
        kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
        return vectors[:, kept] * values[kept].sqrt()


def frechet(a: Moments, b: Moments) -> float:
    """Frechet distance of two Gaussians, ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``.

    Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, arXiv 1706.08500. With
    ``Ci = Ri Ri^T`` the trace of the root is the sum of the singular values of ``R1^T R2``, exact
    to rounding for covariances of any rank. Roots of the eigenvalues of ``C1 C2``, as torchmetrics
    takes them, keep half of the digits of a zero: 300 rows of 2048 features, of total variance 745,
    are then at -7e-5 from themselves; here they are within 1e-11.
    """
    root = torch.linalg.svdvals(a.root.T @ b.root).sum()
    trace = a.covariance.trace() + b.covariance.trace() - 2 * root
    return float((a.mean - b.mean).square().sum() + trace)
