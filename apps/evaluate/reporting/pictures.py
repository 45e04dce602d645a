"""The best and the worst pictures of a result, metric by metric."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from apps.evaluate.pictures.images import BadPicture, read_picture
from apps.evaluate.reporting.groups import slug
from apps.evaluate.result import Images, Result, short
from apps.pictures import CELL, Row, contact_sheet, thumbnail, write_png

SHOWN = 8
_FONT_SIZE = 14
_LINE = 17
_LINES = 4


@dataclass(frozen=True)
class Pick:
    """A picture with its value, and its prompt where it has one."""

    name: str
    value: float
    text: str


Picks = dict[str, list[Pick]]
"""Per row of a sheet, such as ``best``, its pictures."""


@dataclass(frozen=True)
class Sheet:
    """A drawn sheet of a metric and a result: its file, and all picks, also those not found."""

    metric: str
    result: str
    file: str
    picks: Picks


@dataclass(frozen=True)
class Drawn:
    """The sheets of a result, and the pictures that could not be read for them."""

    sheets: list[Sheet]
    lost: list[Path]


def extremes(images: Images, metric: str, better: str) -> Picks:
    """The ``SHOWN`` best and worst pictures of a metric, the most extreme first, ties by name.

    The rows are ``best`` and ``worst``, or ``highest`` and ``lowest`` where neither is better. They
    share no picture, none of the best is as bad as the worst, and none of the worst as good as the
    best, so that they can be short. No rows if all values are equal.
    """
    texts = images.texts or [""] * len(images.names)
    rows = zip(images.names, images.values[metric], texts, strict=True)
    known = [Pick(name, value, text) for name, value, text in rows if value is not None]
    if len({pick.value for pick in known}) < 2:
        return {}
    sign = -1 if better == "lower" else 1
    count = min(SHOWN, len(known) // 2)
    known.sort(key=lambda pick: (-sign * pick.value, pick.name))
    top, bottom = known[0].value, known[-1].value
    first = [pick for pick in known if pick.value != bottom][:count]
    others = [pick for pick in known if pick.value != top and pick not in first]
    last = sorted(others, key=lambda pick: (sign * pick.value, pick.name))[:count]
    names = ("highest", "lowest") if better == "neither" else ("best", "worst")
    return dict(zip(names, (first, last), strict=True))


def draw_sheets(name: str, result: Result, out: Path) -> Drawn:
    """Write a sheet for each metric of single pictures, ``PROTOCOL-NAME-METRIC.png``."""
    if result.images is None:
        return Drawn([], [])
    better = {score.metric: score.better for score in result.scores}
    picks = {
        metric: extremes(result.images, metric, better.get(metric, "neither"))
        for metric in result.images.values
    }
    folder = Path(result.images.folder)
    wanted = {pick.name for rows in picks.values() for row in rows.values() for pick in row}
    images = _thumbnails(folder, wanted)
    sheets = []
    for metric, chosen in picks.items():
        rows = [
            Row(f"{name}, {metric}: {row}", cells)
            for row, some in chosen.items()
            if (cells := _cells(some, images))
        ]
        if rows:
            file = f"{slug(result.protocol)}-{slug(name)}-{slug(metric)}.png"
            write_png(out / file, contact_sheet(rows))
            sheets.append(Sheet(metric, name, file, chosen))
    return Drawn(sheets, [folder / name for name in sorted(wanted - set(images))])


def _thumbnails(folder: Path, names: Collection[str]) -> dict[str, Image.Image]:
    found = {}
    for name in names:
        with suppress(BadPicture):
            found[name] = thumbnail(read_picture(folder / name))
    return found


def _cells(picks: Sequence[Pick], images: Mapping[str, Image.Image]) -> list[Image.Image]:
    return [
        _captioned(images[pick.name], f"{short(pick.value)}  {pick.text}")
        for pick in picks
        if pick.name in images
    ]


def _captioned(image: Image.Image, caption: str) -> Image.Image:
    """The image over the first lines of its caption."""
    font = ImageFont.load_default(_FONT_SIZE)
    letters = int(CELL / font.getlength("n"))
    lines = textwrap.wrap(caption, letters, max_lines=_LINES, placeholder=" …")
    cell = Image.new("RGB", (CELL, CELL + _LINES * _LINE), "white")
    cell.paste(image, (0, 0))
    draw = ImageDraw.Draw(cell)
    for number, line in enumerate(lines):
        draw.text((0, image.height + number * _LINE), line, fill="black", font=font)
    return cell
