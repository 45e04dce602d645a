"""Plots of results that can be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from apps.evaluate.reporting.groups import Scores
from apps.evaluate.result import Score

CEILING = "_real"
_COLUMNS = 4
_LETTERS = 28
_ARROWS = {"higher": "higher is better", "lower": "lower is better", "neither": ""}


def plot_scores(scores: Scores, names: Sequence[str]) -> Figure:
    """Values with their intervals, a panel for each metric and a line for each result."""
    columns = min(_COLUMNS, len(scores))
    lines = math.ceil(len(scores) / columns)
    size = (2.6 * columns + 1.8, lines * (0.26 * len(names) + 1.0))
    figure = Figure(figsize=size)
    figure.set_layout_engine("constrained", h_pad=0.07)
    panels = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    for axis in panels[len(scores) :]:
        axis.remove()
    for axis, (metric, found) in zip(panels, scores.items(), strict=False):
        for place, name in enumerate(names):
            if name in found:
                _dot(axis, found[name], place)
        better = next(iter(found.values())).better
        axis.set_title(_plain(metric), fontsize=9)
        axis.set_xlabel(_ARROWS[better], fontsize=8, color="0.4")
        axis.set(ylim=(len(names) - 0.5, -0.5))
        axis.set_yticks(range(len(names)), [_plain(name) for name in names], fontsize=8)
        axis.tick_params(axis="x", labelsize=8)
        axis.locator_params(axis="x", nbins=4)
        axis.ticklabel_format(axis="x", useOffset=False)
        axis.grid(alpha=0.3)
    return figure


def _dot(axis: Axes, score: Score, place: int) -> None:
    if score.interval is not None:
        axis.plot(score.interval, [place, place], color="tab:blue", lw=2)
    axis.plot(score.value, place, "o", color="black", ms=4)


def likenesses(scores: Scores) -> list[str]:
    """Metrics of likeness to a subject: those with a ceiling."""
    return [metric for metric in scores if metric + CEILING in scores]


def plot_fidelity(scores: Scores) -> Figure:
    """How like the subject against how true to the prompt, a panel for each likeness.

    The dashed line is what different real pictures of a subject reach.
    """
    names = likenesses(scores)
    figure = Figure(figsize=(3.9 * len(names) + 2.2, 3.9), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, metric in zip(panels, names, strict=True):
        ceiling = next(iter(scores[metric + CEILING].values())).value
        axis.axhline(ceiling, color="0.5", ls="--", lw=1, label="real pictures")
        for number, (name, like) in enumerate(scores[metric].items(), 1):
            true = scores["clip_t"][name]
            axis.errorbar(
                *(true.value, like.value),
                xerr=_arms(true),
                yerr=_arms(like),
                fmt="o",
                ms=5,
                lw=1,
                label=f"{number}  {_plain(name)}",
            )
        axis.set(xlabel="clip_t", ylabel=_plain(metric))
        axis.grid(alpha=0.3)
    panels[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _arms(score: Score) -> list[list[float]] | None:
    """Lengths of the interval below and above the value."""
    if score.interval is None:
        return None
    low, high = score.interval
    return [[max(score.value - low, 0)], [max(high - score.value, 0)]]


def _plain(text: str) -> str:
    """A name that fits beside a panel and is no formula."""
    half = _LETTERS // 2
    fits = text if len(text) <= _LETTERS else f"{text[:half]}…{text[-half:]}"
    return fits.replace("$", r"\$")
