"""Parts of a run in which a rule acts (guidance interval, Kynkaanniemi et al. 2024, 2404.07724)."""

from __future__ import annotations

from dataclasses import dataclass

from guidance.core.prediction import Step
from guidance.core.schedule import check_number


def _bounds(name: str, low: object, high: object, limit: float) -> tuple[float, float]:
    first = check_number("between", name, low, 0, limit)
    last = check_number("between", name, high, 0, limit)
    if first > last:
        raise ValueError(
            f"between: {name} must rise, found ({first:g}, {last:g}); swap the two numbers"
        )
    return first, last


@dataclass(frozen=True)
class FractionInterval:
    """Calls with ``start <= fraction < stop``; an empty interval switches the rule off.

    Raises:
        ValueError: a bound outside [0, 1], or ``start > stop``.
    """

    start: float
    stop: float

    def __post_init__(self) -> None:
        start, stop = _bounds("fraction", self.start, self.stop, 1.0)
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "stop", stop)

    def holds(self, step: Step) -> bool:
        return self.start <= step.fraction < self.stop

    def __str__(self) -> str:
        return f".between({self.start!r}, {self.stop!r})"

    def to_config(self) -> dict[str, list[float]]:
        return {"fraction": [self.start, self.stop]}


@dataclass(frozen=True)
class SigmaInterval:
    """Calls with EDM noise ``low < sigma / alpha <= high``, the paper's convention.

    Raises:
        ValueError: a negative or infinite bound, or ``low > high``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        low, high = _bounds("sigma", self.low, self.high, float("inf"))
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def holds(self, step: Step) -> bool:
        return self.low < step.edm_sigma <= self.high

    def __str__(self) -> str:
        return f".between(sigma=({self.low!r}, {self.high!r}))"

    def to_config(self) -> dict[str, list[float]]:
        return {"sigma": [self.low, self.high]}


Interval = FractionInterval | SigmaInterval
