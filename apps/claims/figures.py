"""Plots of the measured claims, drawn from the rows of the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from apps.claims.curves import draw_curves, exact

Row = Mapping[str, Any]

LABELS = {
    "accuracy": "prompt accuracy",
    "valid": "recognisable pictures",
    "leakage": "pictures that show the negative",
    "fid": "FID",
    "diversity": "diversity",
    "detail": "fine detail (world = 1)",
    "ssim": "SSIM to CFG(4), 20 steps",
}


def draw_figures(rows: Sequence[Row], folder: Path) -> None:
    """Draw the plot of each claim that any row belongs to, ``claims-guidance-*.png``."""
    plots = {
        "settings": plot_settings,
        "negatives": plot_negatives,
        "savings": plot_savings,
        "soft-pag": plot_strengths,
    }
    for claim, plot in plots.items():
        if any(row["claim"].startswith(claim) for row in rows):
            plot(rows).savefig(folder / f"claims-guidance-{claim}.png", dpi=110)


def plot_settings(rows: Sequence[Row]) -> Figure:
    """What every rule changes in accuracy, FID and diversity, pair by pair."""
    base = next(row for row in rows if row["claim"] == "settings")
    shown = [row for row in rows if row["claim"] == "settings" and row["differences"]]
    figure = Figure(figsize=(11, 0.34 * len(shown) + 1.4), layout="constrained")
    places = range(len(shown), 0, -1)
    names = ("accuracy", "fid", "diversity")
    for axis, name in zip(figure.subplots(1, len(names), sharey=True), names, strict=True):
        axis.axvline(0, color="0.5", lw=1)
        for place, row in zip(places, shown, strict=True):
            change = row["differences"][name]
            axis.plot([change["low"], change["high"]], [place, place], color="tab:blue", lw=2)
            axis.plot(change["value"], place, "o", color="black", ms=4)
        axis.set(xlabel=f"{LABELS[name]}: change from {base['measures'][name]['value']:.3g}")
        axis.grid(alpha=0.3)
    figure.axes[0].set_yticks(places, [_label(row) for row in shown], fontsize=8)
    figure.suptitle(
        f"change from {_label(base)}, prompt by prompt; in brackets: evaluations per picture",
        fontsize=10,
    )
    return figure


def _label(row: Row) -> str:
    steps = "" if row["steps"] == 20 else f", {row['steps']} steps"
    return f"{row['rule']}{steps}  [{row['evaluations']:.0f}]"


def plot_negatives(rows: Sequence[Row]) -> Figure:
    """Accuracy against leakage, where the negative states what the prompt leaves open."""
    shown = [row for row in rows if row["prompts"] == "unsaid" and row["claim"] == "negatives"]
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axis = figure.subplots()
    draw_curves(axis, shown, lambda row: row["measures"]["leakage"], "accuracy")
    axis.set(xlabel=LABELS["leakage"], ylabel=LABELS["accuracy"])
    axis.legend(fontsize=8)
    return figure


def plot_savings(rows: Sequence[Row]) -> Figure:
    """Likeness to full guidance, and accuracy, over the evaluations spent."""
    shown = [row for row in rows if row["claim"] == "savings"]
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2), ("ssim", "accuracy"), strict=True):
        draw_curves(axis, shown, lambda row: exact(row["evaluations"]), name)
        axis.set(xlabel="evaluations per picture", ylabel=LABELS[name])
    figure.axes[0].legend(fontsize=8)
    return figure


def _strength(row: Row) -> dict[str, float]:
    return exact(row["knobs"]["strength"])


def plot_strengths(rows: Sequence[Row]) -> Figure:
    """Soft perturbed attention over its strength, one line per scale, one row per model."""
    claims = list(dict.fromkeys(r["claim"] for r in rows if r["claim"].startswith("soft-pag")))
    figure = Figure(figsize=(13.5, 3.2 * len(claims)), layout="constrained")
    for line, claim in zip(figure.subplots(len(claims), 3, squeeze=False), claims, strict=True):
        mine = [row for row in rows if row["claim"] == claim]
        bases = [row for row in rows if row["cell"] == mine[-1]["baseline"]]
        softened = [row for row in mine if row["baseline"]]
        first = "accuracy" if "prompted" in claim else "valid"
        for axis, name in zip(line, (first, "fid", "detail"), strict=True):
            for base in bases:
                height = base["measures"][name]["value"]
                axis.axhline(height, color="0.6", ls="--", lw=1, label=base["rule"])
            draw_curves(axis, softened, _strength, name, named=False)
            title = claim.replace("soft-pag", "emblem").replace("-prompted", ", with prompts")
            axis.set(title=title, xlabel="strength", ylabel=LABELS[name], xlim=(0, 1.05))
        line[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
