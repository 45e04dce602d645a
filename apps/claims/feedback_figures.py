"""Plots of the claims about rules that listen to networks, drawn from the rows of the results."""

from __future__ import annotations

from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure

from apps.claims.curves import draw_curves, exact
from apps.claims.head_figures import plot_found, plot_heads
from apps.claims.tables import LABELS, Rows, of_claims, plot_table


def draw_figures(rows: Rows, folder: Path) -> None:
    """Draw the plot of each claim that any row belongs to, ``claims-feedback-*.png``."""
    plots = {
        "heads": plot_heads,
        "found": plot_found,
        "scales": plot_trade,
        "chosen": plot_chosen,
        "classes": plot_classes,
        "minority": plot_minority,
        "scores": plot_scores,
    }
    for name, plot in plots.items():
        if figure := plot(rows):
            figure.savefig(folder / f"claims-feedback-{name}.png", dpi=110)


def plot_trade(rows: Rows) -> Figure | None:
    """Accuracy against FID: static scales as a curve, schedules and evaluators as points on it."""
    claims = of_claims(rows, "scales")
    if not claims:
        return None
    figure = Figure(figsize=(5.6 * len(claims), 6.4), layout="constrained")
    panels = figure.subplots(1, len(claims), squeeze=False)[0]
    for axis, (claim, mine) in zip(panels, claims.items(), strict=True):
        axis.set_prop_cycle(color=colormaps["tab20"](range(20)))
        draw_curves(axis, mine, lambda row: row["measures"]["fid"], "accuracy", by_knobs=True)
        axis.set(xlabel=LABELS["fid"], ylabel=LABELS["accuracy"], title=claim)
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.12), ncols=2)
    return figure


def plot_chosen(rows: Rows) -> Figure | None:
    """Scales over the run: common and rare, easy and hard prompts, and how far pictures spread."""
    shown = [row for row in rows if "scales" in row]
    if not shown:
        return None
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.8 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).flat
    for row, axis in zip(shown, panels, strict=False):
        scales = row["scales"]
        calls = range(1, len(scales["all"]) + 1)
        axis.fill_between(calls, scales["10 %"], scales["90 %"], alpha=0.15, color="0.4")
        for name in ("common", "rare", "easy", "hard"):
            if name in scales:
                axis.plot(calls, scales[name], lw=1.2, label=f"{name} ({row['prompts_in'][name]})")
        axis.set_title(f"{row['model']}, {row['prompts']}\n{row['series']}", fontsize=8)
        axis.set(xlabel="step", ylabel="scale")
    for axis in list(panels):
        axis.set_axis_off()
    figure.axes[0].legend(fontsize=7, loc="upper right")
    return figure


def plot_classes(rows: Rows) -> Figure | None:
    """What guidance by the classifier changes beside what it is compared with."""
    claims = {
        claim: [
            *(row for row in rows if row["cell"] in {each["baseline"] for each in mine}),
            *(row for row in mine),
        ]
        for claim, mine in of_claims(rows, "classes").items()
    }
    unique = {
        claim: list({row["cell"]: row for row in mine}.values()) for claim, mine in claims.items()
    }
    return plot_table(unique, ("texture", "accuracy", "fid", "diversity"), label="cell")


def plot_minority(rows: Rows) -> Figure | None:
    """Rarity against validity, a curve for each rule, a column for each model and prompts."""
    claims = of_claims(rows, "minority")
    if not claims:
        return None
    figure = Figure(figsize=(4.6 * len(claims), 11), layout="constrained")
    panels = figure.subplots(3, len(claims), squeeze=False)
    for column, (claim, mine) in zip(panels.T, claims.items(), strict=True):
        for axis, name in zip(column, ("rarity", "rare", "rare_of_number"), strict=True):
            draw_curves(axis, mine, lambda row: row["measures"]["valid"], name, by_knobs=True)
            axis.set(xlabel=LABELS["valid"], ylabel=LABELS[name], title=claim)
        column[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2)
    return figure


def plot_scores(rows: Rows) -> Figure | None:
    """Rank correlation of the minority score with true rarity over its level."""
    claims = of_claims(rows, "score")
    if not claims:
        return None
    figure = Figure(figsize=(9, 3.8 * len(claims)), layout="constrained")
    panels = figure.subplots(len(claims), 2, squeeze=False, sharey=True)
    for line, (claim, mine) in zip(panels, claims.items(), strict=True):
        for axis, name in zip(line, ("correlation", "correlation_single"), strict=True):
            draw_curves(axis, mine, lambda row: exact(row["knobs"]["level"]), name, named=False)
            axis.axhline(0, color="0.5", lw=1)
            axis.set(xlabel="level", ylabel=LABELS[name], title=claim)
    panels[0, 0].legend(fontsize=8, loc="lower left")
    return figure
