"""Scales that change over a run: functions of its fraction, from 0 up to but excluding 1.

A schedule holds its first argument at fraction 0 and approaches its last argument as the fraction
approaches 1. Shapes follow the survey in Wang et al. 2024, arXiv 2404.13040, in terms of progress.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import cos, floor, isfinite, pi
from numbers import Real
from typing import ClassVar

Scale = float | Callable[[float], float]
"""A number, a schedule, or any function of the fraction of the run."""


def check_number(
    owner: str, name: str, value: object, low: float = 0.0, high: float = float("inf")
) -> float:
    """The value as a float; raises one line when it is not a finite number in ``[low, high]``."""
    expected = f"a finite number from {low:g}" + (f" to {high:g}" if isfinite(high) else " up")
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{owner}: {name} must be {expected}, found {value!r} ({type(value).__name__})"
        )
    number = float(value)
    if not (isfinite(number) and low <= number <= high):
        raise ValueError(f"{owner}: {name} must be {expected}, found {number:g}")
    return number


class Schedule:
    """Base of the schedules: validated settings, callable on the fraction of the run."""

    known: ClassVar[dict[str, type[Schedule]]] = {}

    def __init_subclass__(cls) -> None:
        Schedule.known[cls.__name__] = cls

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            number = check_number(type(self).__name__, item.name, getattr(self, item.name))
            object.__setattr__(self, item.name, number)

    def __call__(self, fraction: float) -> float:
        """Scale at this fraction of the run."""
        raise NotImplementedError


@dataclass(frozen=True)
class constant(Schedule):
    """The same value throughout."""

    value: float

    def __call__(self, fraction: float) -> float:
        return self.value


@dataclass(frozen=True)
class linear(Schedule):
    """A straight line from ``start`` to ``stop``."""

    start: float
    stop: float

    def __call__(self, fraction: float) -> float:
        return self.start + (self.stop - self.start) * fraction


@dataclass(frozen=True)
class cosine(Schedule):
    """Half a cosine wave from ``start`` to ``stop``: flat at both ends."""

    start: float
    stop: float

    def __call__(self, fraction: float) -> float:
        return self.start + (self.stop - self.start) * (1 - cos(pi * fraction)) / 2


@dataclass(frozen=True)
class power(Schedule):
    """``start + (stop - start) fraction ** exponent``."""

    start: float
    stop: float
    exponent: float

    def __call__(self, fraction: float) -> float:
        return self.start + (self.stop - self.start) * fraction**self.exponent


@dataclass(frozen=True)
class piecewise(Schedule):
    """Straight lines through ``((fraction, scale), ...)``, held constant before and after.

    Raises:
        ValueError: no points, fractions outside [0, 1] or not increasing, a negative scale.
    """

    points: Sequence[tuple[float, float]]

    def __post_init__(self) -> None:
        if not all(isinstance(point, Sequence) and len(point) == 2 for point in self.points):
            raise ValueError(
                f"piecewise: points must be pairs such as ((0, 2), (0.5, 9)), found {self.points}"
            )
        points = tuple(
            (
                check_number("piecewise", "fraction", fraction, 0, 1),
                check_number("piecewise", "scale", scale),
            )
            for fraction, scale in self.points
        )
        if not points or any(a[0] >= b[0] for a, b in pairwise(points)):
            raise ValueError(
                f"piecewise: points must be (fraction, scale) pairs with increasing fractions, "
                f"found {points}"
            )
        object.__setattr__(self, "points", points)

    def __call__(self, fraction: float) -> float:
        after = bisect_right(self.points, fraction, key=lambda point: point[0])
        if after in (0, len(self.points)):
            return self.points[max(after - 1, 0)][1]
        (left, low), (right, high) = self.points[after - 1], self.points[after]
        return low + (high - low) * (fraction - left) / (right - left)


@dataclass(frozen=True)
class table(Schedule):
    """One value for each equal part of the run; as many values as calls gives one per call."""

    values: Sequence[float]

    def __post_init__(self) -> None:
        values = tuple(check_number("table", "value", value) for value in self.values)
        if not values:
            raise ValueError("table: values must hold at least one number, found none")
        object.__setattr__(self, "values", values)

    def __call__(self, fraction: float) -> float:
        place = floor(fraction * len(self.values) + 1e-9)
        return self.values[min(place, len(self.values) - 1)]


def check_scale(owner: str, name: str, value: object, high: float = float("inf")) -> Scale:
    """A number in ``[0, high]`` or a function of the fraction; anything else raises one line."""
    return value if callable(value) else check_number(owner, name, value, 0, high)


def scale_at(scale: Scale, fraction: float, owner: str, high: float = float("inf")) -> float:
    """Value of a number or schedule at this fraction, checked like a number."""
    value = scale(fraction) if callable(scale) else scale
    return check_number(owner, f"scale at fraction {fraction:g}", value, 0, high)
