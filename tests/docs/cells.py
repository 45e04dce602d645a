"""Measured cells of the claims, written as the documentation writes them."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.docs.pages import ROOT

SHARES = {
    "accuracy": "accuracy",
    "recognisable": "valid",
    "leakage": "leakage",
    "least likely tenth": "rare",
    "two emblems": "double",
    "identity": "identity",
    "held out": "held_out",
    "whole concept": "concept",
}
"""Columns in per cent, with the measures that they show."""

NUMBERS = {
    "FID": ("fid", 1),
    "diversity": ("diversity", 2),
    "fine detail": ("detail", 2),
    "SSIM": ("ssim", 3),
    "-log p": ("rarity", 1),
    "stripes": ("striped", 2),
    "outlines": ("outlined", 2),
    "rank correlation": ("correlation", 2),
}
"""Other columns, with their measures and digits."""

_AGAINST = re.compile(r"(.*) against `(.*)`")


def cells(name: str) -> list[dict[str, Any]]:
    """The cells of this name; reference cells are in more than one file."""
    found = []
    for file in ("claims-guidance", "claims-feedback", "claims-personalize"):
        results = json.loads((ROOT / "assets" / "results" / f"{file}.json").read_text())
        found += [cell for cell in results["cells"] if cell["cell"] == name]
    return found


def shown(cell: dict[str, Any], column: str) -> str:
    """What a table of the documentation has under a heading for this cell."""
    if column == "cell":
        return f"`{cell['cell']}`"
    if column == "learned by":
        return str(cell["learned"])
    if column == "rule":
        return f"`{cell['rule']}`"
    if column == "steps":
        return str(cell["steps"])
    if column == "evaluations":
        return f"{round(cell['evaluations'], 1):g}"
    if match := _AGAINST.fullmatch(column):
        if match[2] != cell["baseline"]:
            return ""
        return _written(match[1], cell["differences"], "+")
    return _written(column, cell["measures"])


def _written(column: str, measures: dict[str, Any], sign: str = "") -> str:
    share = column in SHARES
    name, digits = (SHARES[column], 1) if share else NUMBERS[column]
    if name not in measures:
        return ""
    factor = 100 if share else 1
    value, low, high = (
        f"{factor * measures[name][key]:{mark}.{digits}f}"
        for key, mark in (("value", sign), ("low", ""), ("high", ""))
    )
    return f"{value}{' %' * (share and not sign)} ({low} to {high})"
