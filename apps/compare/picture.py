"""A comparison on one page: a block for each prompt, a row for each rule, seeds across."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from apps.pictures import thumbnail

if TYPE_CHECKING:
    from apps.compare.run import Cell

_FONT_SIZE = 16
_LINE = 20
_GAP = 8
_LABEL = 272
"""Width of the rules on the left."""


def grid_picture(cells: Sequence[Cell]) -> Image.Image:
    """All pictures, each row under its rule, what it cost, and its accuracy where that is known."""
    return _page(cells, _cost)


def difference_picture(cells: Sequence[Cell]) -> Image.Image:
    """The first rule's pictures, and of the others half of what they change on them, around grey.

    Grey is no change; 255 levels more or less become white and black.
    """
    first = {cell.job: _pixels(cell) for cell in cells if cell.rule == cells[0].rule}
    change = {(cell.rule, cell.job): _pixels(cell) - first[cell.job] for cell in cells}

    def shown(cell: Cell) -> Cell:
        if cell.rule == cells[0].rule:
            return cell
        levels = (128 + change[cell.rule, cell.job] / 2).clip(0, 255)
        return replace(cell, image=Image.fromarray(levels.astype(np.uint8)))

    def size(row: Sequence[Cell]) -> list[str]:
        if row[0].rule == cells[0].rule:
            return ["the pictures themselves"]
        changed = (np.abs(change[cell.rule, cell.job]).mean() for cell in row)
        return [f"mean change {mean(changed):.1f} of 255"]

    return _page([shown(cell) for cell in cells], size)


def _pixels(cell: Cell) -> NDArray[np.float64]:
    return np.asarray(cell.image.convert("RGB"), dtype=float)


def _cost(row: Sequence[Cell]) -> list[str]:
    lines = [
        f"{mean(cell.evaluations for cell in row):.4g} evaluations",
        f"{mean(cell.seconds for cell in row):.3g} s a picture",
    ]
    known = [cell.accuracy for cell in row if cell.accuracy is not None]
    return [*lines, f"{mean(known):.0%} as prompted"] if known else lines


def _page(cells: Sequence[Cell], notes: Callable[[Sequence[Cell]], list[str]]) -> Image.Image:
    """The page, with lines of notes under the rule of each row."""
    blocks: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        blocks.setdefault(cell.job.prompt, {}).setdefault(cell.rule, []).append(cell)
    seeds = list(dict.fromkeys(cell.job.seed for cell in cells))
    pictures = {id(cell): thumbnail(cell.image) for cell in cells}
    wide, high = (max(each.size[axis] for each in pictures.values()) for axis in (0, 1))
    width = _LABEL + len(seeds) * (wide + _GAP) + _GAP
    labels = {
        (prompt, rule): [*_wrapped(rule, _LABEL - 2 * _GAP), *notes(row)]
        for prompt, rows in blocks.items()
        for rule, row in rows.items()
    }
    titles = {prompt: _wrapped(prompt, width - 2 * _GAP) for prompt in blocks}
    height = _GAP + sum(
        (len(titles[prompt]) + 1) * _LINE
        + sum(max(high, len(labels[prompt, rule]) * _LINE) + _GAP for rule in rows)
        + _GAP
        for prompt, rows in blocks.items()
    )
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    top = _GAP
    for prompt, rows in blocks.items():
        top = _text(draw, (_GAP, top), titles[prompt])
        for column, seed in enumerate(seeds):
            _text(draw, (_LABEL + column * (wide + _GAP), top), [f"seed {seed}"])
        top += _LINE
        for rule, row in rows.items():
            _text(draw, (_GAP, top), labels[prompt, rule])
            for column, cell in enumerate(row):
                page.paste(pictures[id(cell)], (_LABEL + column * (wide + _GAP), top))
            top += max(high, len(labels[prompt, rule]) * _LINE) + _GAP
        top += _GAP
    return page


def _text(draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str]) -> int:
    """Write lines; returns where the next one would start."""
    for number, line in enumerate(lines):
        draw.text((place[0], place[1] + number * _LINE), line, fill="black", font=_font())
    return place[1] + len(lines) * _LINE


def _wrapped(text: str, width: int) -> list[str]:
    letters = max(1, int(width / _font().getlength("n")))
    return textwrap.wrap(text, letters, max_lines=6, placeholder=" …")


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_SIZE)
