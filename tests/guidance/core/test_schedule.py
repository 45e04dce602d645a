"""Shapes of the schedules at their ends, in between, and at impossible settings."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest

from guidance import constant, cosine, linear, piecewise, power, table
from guidance.core.schedule import Schedule

POINTS = ((0.2, 1.0), (0.6, 5.0))


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (constant(3), (3, 3, 3)),
        (linear(2, 9), (2, 3.75, 9)),
        (cosine(2, 10), (2, 6 - 4 * sqrt(0.5), 10)),
        (power(1, 17, 2), (1, 2, 17)),
        (piecewise(POINTS), (1, 1.5, 5)),
        (table([1, 2, 3, 4]), (1, 2, 4)),
    ],
)
def test_values_at_start_quarter_and_end(schedule: Schedule, values: tuple[float, ...]) -> None:
    assert [schedule(p) for p in (0, 0.25, 1)] == pytest.approx(values)


def test_rising_and_falling_cosine_keep_the_mean() -> None:
    up, down = cosine(0, 8), cosine(8, 0)
    assert all(up(p / 10) + down(p / 10) == pytest.approx(8) for p in range(11))


@pytest.mark.parametrize("count", range(1, 60))
def test_table_with_one_value_per_call_gives_each_its_own(count: int) -> None:
    values = table(range(count))
    assert [values(index / count) for index in range(count)] == list(range(count))


@pytest.mark.parametrize("schedule", [linear(2, 9), piecewise(POINTS), table((1, 2.5))])
def test_repr_rebuilds(schedule: Schedule) -> None:
    names = {"linear": linear, "piecewise": piecewise, "table": table}
    assert eval(repr(schedule), names) == schedule


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (linear, (2, float("nan")), "linear: stop must be a finite number from 0 up, found nan"),
        (power, (1, 2, -1), "power: exponent must be a finite number from 0 up, found -1"),
        (piecewise, (((0.5, 1), (0.2, 2)),), "increasing fractions"),
        (piecewise, (((0.5, 1), (1.2, 2)),), "fraction must be a finite number from 0 to 1"),
        (piecewise, ((1, 2),), "must be pairs"),
        (piecewise, ((),), "increasing fractions"),
        (table, ((),), "at least one number"),
    ],
)
def test_impossible_settings_raise(kind: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(*settings)
