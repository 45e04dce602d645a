"""What several plots of claims share: labels, the rows of claims, tables of points with bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Row = Mapping[str, Any]
Rows = Sequence[Row]

LABELS = {
    "accuracy": "prompt accuracy",
    "valid": "recognisable pictures",
    "fid": "FID",
    "detail": "fine detail (world = 1)",
    "diversity": "diversity",
    "quality": "quality: CLIP cosine",
    "striped": "probability of striped",
    "outlined": "probability of outlined",
    "texture": "texture accuracy",
    "rarity": "rarity, nats",
    "rare": "least likely tenth",
    "rare_of_number": "the same, by number of emblems",
    "correlation": "rank correlation with rarity",
    "correlation_single": "the same, of one emblem",
}


def of_claims(rows: Rows, claim: str) -> dict[str, Rows]:
    """The rows of each claim whose name begins so, without those of the truth."""
    names = dict.fromkeys(row["claim"] for row in rows if row["claim"].startswith(f"{claim}-"))
    return {name: [row for row in rows if row["claim"] == name] for name in names}


def _bars(axis: Axes, rows: Rows, name: str, label: str) -> None:
    """A measure of some rows with its intervals, one below the other."""
    places = range(len(rows), 0, -1)
    for place, row in zip(places, rows, strict=True):
        found = row["measures"][name]
        axis.plot([found["low"], found["high"]], [place, place], color="tab:blue", lw=2)
        axis.plot(found["value"], place, "o", color="black", ms=4)
    axis.set_yticks(places, [row[label] for row in rows], fontsize=8)
    axis.set(xlabel=LABELS[name])
    axis.grid(alpha=0.3)


def plot_table(
    claims: Mapping[str, Rows], names: Sequence[str], label: str = "series"
) -> Figure | None:
    """A line of panels for each claim, one for each measure, each row a line with its label."""
    if not claims:
        return None
    heights = [0.3 * len(rows) + 1 for rows in claims.values()]
    figure = Figure(figsize=(2.6 * len(names) + 2, sum(heights)), layout="constrained")
    panels = figure.subplots(
        len(claims), len(names), squeeze=False, sharey="row", height_ratios=heights
    )
    for line, (claim, rows) in zip(panels, claims.items(), strict=True):
        for axis, name in zip(line, names, strict=True):
            _bars(axis, rows, name, label)
        line[0].set_title(claim, fontsize=9, loc="left")
    return figure
