"""Plots of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from typing import Any

from matplotlib.figure import Figure

from apps.demo.drawing import Drawn
from apps.evaluate.result import Result

INK = "#0f766e"


def steps(drawn: Drawn) -> Figure:
    """Scale, noise, cost and turn of each denoiser call."""
    records = drawn.report.steps
    panels: dict[str, Sequence[Any]] = {
        "guidance scale": [_mean(record.scale) for record in records],
        "noise level (sigma / alpha)": [
            record.edm_sigma if isfinite(record.edm_sigma) else nan for record in records
        ],
        "evaluations per picture": [record.evaluations for record in records],
        "cosine of guided and\nconditional prediction": drawn.turns,
    }
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.plot(range(1, len(values) + 1), values, color=INK, marker=".", linewidth=1)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("denoiser call", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[1].set_yscale("log")
    figure.axes[2].set_ylim(bottom=0)
    return figure


def _mean(scale: Any) -> float:
    """Mean over the images that are guided, nan where none is."""
    known = [each for each in (scale if isinstance(scale, list) else [scale]) if each is not None]
    return sum(known) / len(known) if known else nan


def scores(result: Result) -> Figure:
    """Each score with its interval, on an axis of its own."""
    known = [score for score in result.scores if isfinite(score.value)]
    figure = Figure(figsize=(8, 0.5 + 0.45 * len(known)), layout="constrained")
    for axes, score in zip(figure.subplots(len(known), 1, squeeze=False).flat, known, strict=True):
        low, high = score.interval or (score.value, score.value)
        axes.plot([low, high], [0, 0], color=INK, linewidth=3, alpha=0.4)
        axes.plot([score.value], [0], color=INK, marker="o")
        axes.set_ylabel(score.metric, rotation=0, ha="right", va="center", fontsize=8)
        axes.set_yticks([])
        axes.margins(x=0.3)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right", "left"]].set_visible(False)
    return figure
