"""Plots and pictures of the measured personalization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from apps.claims.curves import draw_curves
from apps.claims.store import Measured
from apps.claims.tables import Row as Told
from apps.pictures import Row, contact_sheet, write_png

_ZOOM, _LINES = 2, 2
_SHEETS = {
    "alone": ("plain-alone", "ti-alone", "perfusion-beta-0.7-alone", "zoodip-alone"),
    "together": (
        "plain-together",
        "ti-together",
        "perfusion-together",
        "perfusion-beta-1.0-together",
    ),
}
_AXES = {
    "identity": "identity: shape, colour, texture",
    "held_out": "what is held out",
    "concept": "concept: all of it",
}


def draw_figures(rows: Sequence[Told], folder: Path) -> None:
    """Draw what was kept of the concept over what was kept of the prompt."""
    shown = [
        {**row, "series": row["learned"], "knobs": row["numbers"]}
        for row in rows
        if row["prompts"] == "alone"
    ]
    if not shown:
        return
    figure = Figure(figsize=(14, 5.2), layout="constrained")
    for axis, (name, label) in zip(figure.subplots(1, len(_AXES)), _AXES.items(), strict=True):
        draw_curves(axis, shown, lambda row: row["measures"]["accuracy"], name, by_knobs=True)
        axis.set(xlabel="prompt accuracy: all else", ylabel=label)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=5)
    figure.savefig(folder / "claims-personalize-front.png", dpi=110)


def draw_pictures(cells: Mapping[str, tuple[str, Mapping[str, Measured]]], folder: Path) -> None:
    """Draw the first pictures of some cells: a column for each concept, or pair of them.

    Args:
        cells: title and groups of each finished cell, by name.
        folder: where to write.
    """
    for name, wanted in _SHEETS.items():
        rows = []
        for cell in wanted:
            title, groups = cells.get(cell, ("", {}))
            drawn = [found.images[:_LINES] for found in groups.values()]
            for number, line in enumerate(zip(*drawn, strict=True)):
                rows.append(Row("" if number else title, [_picture(each) for each in line]))
        if rows:
            write_png(folder / f"claims-personalize-{name}.png", contact_sheet(rows))


def _picture(pixels: Tensor) -> Image.Image:
    side = _ZOOM * pixels.shape[-1]
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    return image.resize((side, side), Image.Resampling.NEAREST)
