"""Balls around pictures that reach to their k-th nearest neighbour, and who lies in them.

Kynkaanniemi et al., Improved Precision and Recall Metric for Assessing Generative Models, 2019,
arXiv 1904.06991, Eq. 1; Naeem et al., Reliable Fidelity and Diversity Metrics for Generative
Models, 2020, arXiv 2002.09797, Eq. 4-6. Balls hold their edge, as in the first; the code of the
second leaves it out, which differs only where pictures are repeated.

Squared distances are ``|x|^2 + |y|^2 - 2 x.y`` in float64, block by block. Differences below
their rounding error, ``SLACK (|x|^2 + |y|^2)``, count as none: equal rows are at distance 0 and a
k-th neighbour lies in its ball.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from apps.evaluate.numbers.arrays import BLOCK, Array, blocks

SLACK = 1e-12


@dataclass(frozen=True)
class Membership:
    """Who lies in which ball.

    Attributes:
        balls: int (P,), number of balls in which each point lies.
        points: int (C,), number of points that each ball holds.
    """

    balls: Tensor
    points: Tensor


def radii(features: Array, k: int) -> Tensor:
    """Distance of each row (N, D) to its k-th nearest other row, (N,) in float64.

    The row itself does not count, rows equal to it do.

    Raises:
        ValueError: k is not from 1 to N - 1.
    """
    if not 1 <= k < len(features):
        raise ValueError(
            f"k is {k}; it must be from 1 up and less than the {len(features)} pictures of a set"
        )
    middle, found = _mean(features), []
    for row, x in enumerate(blocks(features)):
        nearest = torch.full((len(x), k), torch.inf, dtype=torch.float64)
        for column, y in enumerate(blocks(features)):
            squared, _ = _squared_distances(x - middle, y - middle)
            if row == column:
                squared.fill_diagonal_(torch.inf)
            nearest = torch.cat([nearest, squared], dim=1).topk(k, largest=False).values
        found.append(nearest[:, -1].sqrt())
    return torch.cat(found)


def membership(points: Array, centres: Array, reach: Tensor) -> Membership:
    """Which points (P, D) lie in the balls of radius ``reach`` (C,) around centres (C, D)."""
    middle = _mean(centres)
    balls = torch.zeros(len(points), dtype=torch.int64)
    held = torch.zeros(len(centres), dtype=torch.int64)
    for seen, x in zip(balls.split(BLOCK), blocks(points), strict=True):
        near = zip(held.split(BLOCK), reach.split(BLOCK), blocks(centres), strict=True)
        for count, radius, y in near:
            squared, slack = _squared_distances(x - middle, y - middle)
            inside = squared <= radius.square() + slack
            seen += inside.sum(1)
            count += inside.sum(0)
    return Membership(balls, held)


def _mean(features: Array) -> Tensor:
    return torch.stack([x.sum(0) for x in blocks(features)]).sum(0) / len(features)


def _squared_distances(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    norms = x.square().sum(1)[:, None] + y.square().sum(1)
    squared, slack = norms.addmm(x, y.T, alpha=-2), SLACK * norms
    return squared.masked_fill_(squared <= slack, 0), slack
