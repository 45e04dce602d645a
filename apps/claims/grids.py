"""Pictures of measured cells side by side, of the same prompts and noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from apps.claims.cells import Cell
from apps.claims.measure import Bench
from apps.claims.settings import EACH
from apps.pictures import COLUMNS, Row, contact_sheet, write_png

_ZOOM = 2


def draw_grid(bench: Bench, cells: Sequence[Cell], path: Path) -> None:
    """One row for each finished cell: its first pictures, one of each request, under its rule."""
    rows = []
    for cell in cells:
        if measured := bench.find(cell):
            first = measured.images[::EACH][:COLUMNS]
            pixels = first.repeat_interleave(_ZOOM, 2).repeat_interleave(_ZOOM, 3)
            images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
            rows.append(Row(f"{cell.model}: {cell.rule}", images))
    if rows:
        write_png(path, contact_sheet(rows))
