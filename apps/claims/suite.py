"""A family of claims that is measured by one command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apps.claims.cells import Cell


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What ``measure_claims`` measures.

    Attributes:
        name: of the subcommand; files are ``claims-NAME`` and what comes after.
        cells: all that there are; baselines come before what is compared with them.
        measures: what is measured, in words, in the order of the table.
        draw: draws the plots of the rows of results into a folder.
        grids: file names of pictures side by side, with the names of their cells.
    """

    name: str
    cells: Sequence[Cell]
    measures: Mapping[str, str]
    draw: Callable[[Sequence[Mapping[str, Any]], Path], None]
    grids: Mapping[str, Sequence[str]] = field(default_factory=dict)
