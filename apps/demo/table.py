"""Pictures of several rules and seeds as a table on the page, and as files."""

from __future__ import annotations

import base64
import csv
import html
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from PIL import Image, ImageChops

from apps.compare.picture import difference_picture, grid_picture
from apps.compare.run import Cell
from apps.demo.page import SMALL
from apps.pictures import write_png

_SHOWN = 264
_BRIGHTER = 3.0


@dataclass(frozen=True)
class Line:
    """One row of the table.

    Attributes:
        label: what it shows.
        rule: as text, in small letters below; empty for none.
        images: one for each seed; previews while it is being drawn, none before.
        cells: the same, once they are done.
    """

    label: str
    rule: str = ""
    images: tuple[Image.Image, ...] = ()
    cells: tuple[Cell, ...] = ()


def table(lines: Sequence[Line], seeds: Sequence[int]) -> str:
    """The comparison as HTML; nothing in it is a file that others could ask for."""
    judged = any(cell.accuracy is not None for line in lines for cell in line.cells)
    heads = [
        "rules",
        *(f"seed {seed}" for seed in seeds),
        "evaluations",
        "seconds",
        *(["as prompted"] if judged else []),
    ]
    head = "".join(f"<th scope='col'>{name}</th>" for name in heads)
    body = "".join(_row(line, lines[0], len(seeds), judged) for line in lines)
    return (
        '<div class="grid"><label><input type="checkbox"> Show the difference to the first row, '
        f"{_BRIGHTER:g} times brighter</label><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(line: Line, first: Line, columns: int, judged: bool) -> str:
    shown = [
        _img(image, "pictures", line.label)
        + _img(difference(image, other), "differences", f"{line.label}: difference")
        for image, other in zip(line.images, first.images, strict=bool(line.images))
    ]
    numbers = [""] * (3 if judged else 2)
    if line.cells:
        numbers[0] = f"{mean(cell.evaluations for cell in line.cells):.4g}"
        numbers[1] = f"{sum(cell.seconds for cell in line.cells):.3g}"
        known = [cell.accuracy for cell in line.cells if cell.accuracy is not None]
        numbers[2:] = [f"{mean(known):.0%}"] if judged else []
    label, rule = html.escape(line.label), html.escape(line.rule)
    more = f"<br><small>{rule}</small>" if rule.lower() not in ("", label.lower()) else ""
    cells = shown or ['<span class="blank"></span>'] * columns
    return (
        f"<tr><th scope='row'>{label}{more}</th>"
        + "".join(f"<td>{cell}</td>" for cell in (*cells, *numbers))
        + "</tr>"
    )


def _img(image: Image.Image, kind: str, text: str) -> str:
    small = max(image.size) <= SMALL
    shown = image.copy()
    shown.thumbnail((_SHOWN, _SHOWN))
    buffer = io.BytesIO()
    shown.save(buffer, "PNG" if small else "WEBP")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img class="{kind}{" small" if small else ""}" alt="{html.escape(text)}" '
        f'src="data:image/{"png" if small else "webp"};base64,{data}">'
    )


def difference(one: Image.Image, other: Image.Image) -> Image.Image:
    """How far two pictures of one size are apart, in each channel; black where they agree."""
    apart = ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
    return apart.point([min(255, round(value * _BRIGHTER)) for value in range(256)] * 3)


def write(folder: Path, lines: Sequence[Line], metadata: Sequence[dict[str, Any]]) -> Path:
    """Write pictures with their settings, two pages of all, and a table of what they cost.

    Args:
        folder: empty.
        lines: finished ones.
        metadata: what the pictures of each line carry.

    Returns:
        A file with all of them.
    """
    cells = [cell for line in lines for cell in line.cells]
    write_png(folder / "grid.png", grid_picture(cells))
    write_png(folder / "difference.png", difference_picture(cells))
    with (folder / "compare.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "row", "rule", "seed", "evaluations", "seconds", "as_prompted"))
        for number, (line, common) in enumerate(zip(lines, metadata, strict=True), 1):
            for cell in line.cells:
                path = folder / f"{number}-{cell.job.seed}.png"
                size = {"width": cell.image.width, "height": cell.image.height}
                write_png(path, cell.image, {**common, "seed": cell.job.seed, **size})
                cost = (cell.evaluations, round(cell.seconds, 4), cell.accuracy)
                writer.writerow((path.name, line.label, line.rule, cell.job.seed, *cost))
    files = sorted(folder.iterdir())
    pack = folder / "comparison.zip"
    with zipfile.ZipFile(pack, "w") as archive:
        for path in files:
            archive.write(path, path.name)
    return pack
