"""Paired times, on a clock that tests set."""

from __future__ import annotations

import pytest

from apps.bench import timing
from apps.bench.timing import paired


class Clock:
    """A clock that moves only when something is measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.order = 0.0, ""
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def takes(self, name: str, *seconds: float) -> object:
        left = list(seconds)

        def work() -> None:
            self.order += name
            self.now += left.pop(0)

        return work


def test_medians_and_quartiles_of_the_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    ours = clock.takes("a", 100.0, 1.0, 4.0, 6.0, 12.0, 50.0)
    other = clock.takes("b", 900.0, 1.0, 2.0, 2.0, 3.0, 10.0)
    seen: list[None] = []
    times = paired(ours, other, 5, lambda: seen.append(None))  # type: ignore[arg-type]
    assert (times.ours, times.other, times.pairs) == (6.0, 2.0, 5)
    assert (times.low, times.ratio, times.high) == (2.0, 3.0, 4.0)
    assert len(seen) == 6


def test_order_alternates(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    ours, other = (clock.takes(name, *[1.0] * 5) for name in "ab")
    paired(ours, other, 4)  # type: ignore[arg-type]
    assert clock.order == "ab" + "baab" * 2


def test_another_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setitem(timing.CLOCKS, "half", lambda: clock.now / 2)
    ours, other = clock.takes("a", *[4.0] * 4), clock.takes("b", *[1.0] * 4)
    times = paired(ours, other, 3, clock="half")  # type: ignore[arg-type]
    assert (times.ours, times.other, times.ratio) == (2.0, 0.5, 4.0)
