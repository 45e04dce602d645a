"""Time of two things side by side: pairs in alternating order, and the ratio of each pair."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Paired:
    """Medians over the pairs.

    Attributes:
        ours, other: seconds.
        ratio: of ``ours`` to ``other`` within a pair.
        low, high: quartiles of that ratio.
        pairs: number of pairs.
    """

    ours: float
    other: float
    ratio: float
    low: float
    high: float
    pairs: int

    @classmethod
    def of(cls, ours: Sequence[float], other: Sequence[float]) -> Paired:
        """The medians of two times or more, each beside the one of its pair."""
        ratios = [a / b for a, b in zip(ours, other, strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
        first, second = (statistics.median(times) for times in (ours, other))
        return cls(first, second, ratio, low, high, len(ratios))


def paired(
    ours: Callable[[], object],
    other: Callable[[], object],
    pairs: int,
    on_pair: Callable[[], None] = lambda: None,
    clock: str = "wall",
) -> Paired:
    """Measure two functions in turn, each after one call that is not measured.

    Args:
        ours, other: what to measure; queued work on a GPU is waited for.
        pairs: from 2 up; every other pair measures ``other`` first.
        on_pair: called after the unmeasured calls and after each pair.
        clock: one of ``CLOCKS``.
    """
    now = CLOCKS[clock]
    first: list[float] = []
    second: list[float] = []
    for number in range(pairs + 1):
        order = [(ours, first), (other, second)]
        for work, seconds in reversed(order) if number % 2 else order:
            start = now()
            work()
            seconds.append(now() - start)
        on_pair()
    return Paired.of(first[1:], second[1:])


def _wall() -> float:
    """Seconds on a clock on the wall, once queued work on a GPU is done."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


CLOCKS = {"wall": _wall, "processor": time.process_time}
"""By name: wall time, or that of the processors on this process, which others leave alone."""
