"""Measures as curves with error bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

Row = Mapping[str, Any]


def draw_curves(
    axis: Axes,
    rows: Sequence[Row],
    across: Callable[[Row], Mapping[str, float]],
    name: str,
    named: bool = True,
    by_knobs: bool = False,
) -> None:
    """A measure with its intervals, one curve per series, its points named by their knobs.

    Points follow each other from left to right, or by their knobs.
    """
    for series in dict.fromkeys(row["series"] for row in rows):
        mine = [row for row in rows if row["series"] == series and name in row["measures"]]
        if by_knobs:
            mine.sort(key=lambda row: tuple(row["knobs"].values()))
        else:
            mine.sort(key=lambda row: across(row)["value"])
        x, y = [across(row) for row in mine], [row["measures"][name] for row in mine]
        line = axis.errorbar(
            [a["value"] for a in x],
            [b["value"] for b in y],
            xerr=_reach(x),
            yerr=_reach(y),
            fmt="o-",
            ms=4,
            lw=1,
            capsize=2,
            label=series,
        )
        for row, a, b in zip(mine, x, y, strict=True):
            text = ", ".join(f"{key} {value:g}" for key, value in row["knobs"].items())
            place, colour = (a["value"], b["value"]), line[0].get_color()
            if named:
                axis.annotate(
                    text,
                    place,
                    xytext=(5, 4),
                    textcoords="offset points",
                    fontsize=7,
                    color=colour,
                )
    axis.margins(x=0.15)
    axis.grid(alpha=0.3)


def exact(value: float) -> dict[str, float]:
    """A number that is known without an interval."""
    return {"value": value, "low": value, "high": value}


def _reach(measures: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """Distances of the bounds from the values, as error bars take them."""
    return [
        [max(0.0, measure["value"] - measure["low"]) for measure in measures],
        [max(0.0, measure["high"] - measure["value"]) for measure in measures],
    ]
