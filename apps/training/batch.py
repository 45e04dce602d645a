"""The items of one step, dealt out to the processes of ``accelerate launch``."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather, reduce
from torch import Tensor


class Batch:
    """The items of one step, and its random numbers.

    Each process holds its slice of what one process would draw alone.

    Args:
        step, seed: what the numbers are drawn from.
        size: items of all processes together.
        items: what there is to choose from.
        process, processes: number of this process, and how many there are.

    Attributes:
        indices: numbers of the items of this process, ``(B,)``.
    """

    def __init__(
        self, step: int, seed: int, size: int, items: int, process: int = 0, processes: int = 1
    ) -> None:
        self._generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        self._size = size
        self._own = slice(size * process // processes, size * (process + 1) // processes)
        self.indices = torch.randint(items, (size,), generator=self._generator)[self._own]

    def randn(self, *shape: int) -> Tensor:
        """Normal numbers (B, *shape)."""
        return torch.randn((self._size, *shape), generator=self._generator)[self._own]

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (B, *shape)."""
        return torch.rand((self._size, *shape), generator=self._generator)[self._own]

    def randint(self, high: int, *shape: int) -> Tensor:
        """Integers in [0, high), (B, *shape)."""
        return torch.randint(high, (self._size, *shape), generator=self._generator)[self._own]


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes, in order; differentiable, for losses that compare items.

    With the mean of the gradients over the processes, a loss of gathered rows is the loss of one
    process that has them all.
    """
    return rows if PartialState().num_processes == 1 else _Gathered.apply(rows)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.size = len(rows)
        return gather(rows.contiguous())

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        start = PartialState().process_index * ctx.size
        return reduce(slope.contiguous(), "sum")[start : start + ctx.size]


def average(tensors: list[Tensor]) -> None:
    """Replace tensors by their means over the processes, in one exchange."""
    if PartialState().num_processes == 1:
        return
    flat = reduce(torch.cat([tensor.float().flatten() for tensor in tensors]), "mean")
    sizes = [tensor.numel() for tensor in tensors]
    for tensor, part in zip(tensors, flat.split(sizes), strict=True):
        tensor.copy_(part.view_as(tensor))
