"""Time of two things side by side: pairs in alternating order, and the ratio of each pair."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
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


def paired(
    ours: Callable[[], object],
    other: Callable[[], object],
    pairs: int,
    on_pair: Callable[[], None] = lambda: None,
) -> Paired:
    """Measure two functions in turn, each after one call that is not measured.

    Args:
        ours, other: what to measure; queued work on a GPU is waited for.
        pairs: from 2 up; every other pair measures ``other`` first.
        on_pair: called after the unmeasured calls and after each pair.
    """
    seconds: list[tuple[float, float]] = []
    for number in range(pairs + 1):
        if number % 2:
            second, first = _seconds(other), _seconds(ours)
        else:
            first, second = _seconds(ours), _seconds(other)
        if number:
            seconds.append((first, second))
        on_pair()
    low, ratio, high = statistics.quantiles((a / b for a, b in seconds), n=4, method="inclusive")
    first, second = (statistics.median(times) for times in zip(*seconds, strict=True))
    return Paired(first, second, ratio, low, high, pairs)


def _seconds(work: Callable[[], object]) -> float:
    _finish_queue()
    start = time.perf_counter()
    work()
    _finish_queue()
    return time.perf_counter() - start


def _finish_queue() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
