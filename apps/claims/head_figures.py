"""Plots of the claims about attention heads that a search finds."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from apps.claims.tables import Row, Rows, of_claims, plot_table


def plot_heads(rows: Rows) -> Figure | None:
    """Objectives on other prompts, and what they cost in accuracy, FID and detail."""
    names = ("quality", "striped", "outlined", "accuracy", "fid", "detail")
    return plot_table(of_claims(rows, "heads"), names)


def plot_found(rows: Rows) -> Figure | None:
    """What each head alone gained in the searches, and the heads that were taken."""
    searches = [row for row in rows if "search" in row]
    if not searches:
        return None
    across = max(
        len({r["series"] for r in searches if r["claim"] == c}) for c in of_claims(rows, "heads")
    )
    lines = list(of_claims(searches, "heads").values())
    figure = Figure(figsize=(4.2 * across, 3.1 * len(lines)), layout="constrained")
    panels = figure.subplots(len(lines), across, squeeze=False)
    for line, panel in zip(lines, panels, strict=True):
        for axis in panel[len(line) :]:
            axis.set_axis_off()
        for axis, row in zip(panel, line, strict=False):
            _draw_search(axis, row)
            figure.colorbar(axis.images[0], ax=axis)
    return figure


def _draw_search(axis: Axes, row: Row) -> None:
    search = row["search"]
    gains = {(layer, head): score - search["none"] for layer, head, score in search["alone"]}
    layers = list(dict.fromkeys(layer for layer, _ in gains))
    widest = 1 + max(head for _, head in gains)
    grid = [[gains[layer, head] for head in range(widest)] for layer in layers]
    most = max(map(abs, gains.values())) or 1.0
    axis.imshow(grid, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    for number, (layer, head, _) in enumerate(search["heads"][: search["taken"]], 1):
        axis.text(head, layers.index(layer), str(number), ha="center", va="center", weight="bold")
    best = max((layer for layer in search["layers"] if layer), key=search["layers"].__getitem__)
    names = [f"{'> ' if layer == best else ''}{_brief(layer)}" for layer in layers]
    axis.set_yticks(range(len(layers)), names, fontsize=7)
    axis.set_xticks(range(widest))
    axis.set_title(f"{row['model']}: gain of each head alone\n{search['objective']}", fontsize=8)


def _brief(layer: str) -> str:
    """A layer's path without what all of them have."""
    return layer.removesuffix(".attn1").removesuffix(".attn").replace(".transformer_blocks.0", "")
