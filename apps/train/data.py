"""Pictures to learn from, with their captions and labels, checked before any model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from apps.evaluate.pictures.captions import METADATA, Row, read_rows
from apps.evaluate.pictures.folder import Folder
from apps.evaluate.pictures.images import digest, find_pictures, read_picture

HELD_OUT = 10
"""One picture of so many is kept from training, to measure on."""


@dataclass(frozen=True)
class Data:
    """Pictures of a folder in the order of their hashes, so that any first part is a fair sample.

    Attributes:
        pictures: names and hashes.
        rows: what is known of each, with its caption as ``text``; empty without captions.
        why: the reason why there are no captions.
    """

    pictures: Folder
    rows: tuple[Row, ...]
    why: str = ""

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def texts(self) -> tuple[str, ...]:
        """Caption of each picture.

        Raises:
            ValueError: there are none.
        """
        if not self.rows:
            raise ValueError(self.why)
        return tuple(str(row["text"]).strip() for row in self.rows)

    @property
    def held_out(self) -> int:
        """How many pictures, the first ones, are there to measure on."""
        return max(1, len(self) // HELD_OUT)

    def labels(self, path: str | None) -> list[str | None]:
        """Label of each picture, None for those that have none.

        Args:
            path: place in a row, such as ``scene.emblems.0.texture``; None for the folder that a
                picture is in.
        """
        if path is None:
            return [PurePosixPath(name).parent.name or None for name in self.pictures.names]
        if not self.rows:
            raise ValueError(self.why)
        return [_looked_up(row, path.split(".")) for row in self.rows]


def read_data(folder: Path, most: int | None = None) -> Data:
    """The pictures of a folder, the first ones of a random order.

    Raises:
        ValueError: there are fewer than two, or one of them cannot be opened.
    """
    names = find_pictures(folder)
    pictures = Folder.of(folder, {name: digest(folder / name) for name in names})
    if most is not None and most < len(pictures):
        pictures = Folder(folder, pictures.names[:most], pictures.digests[:most])
    if len(pictures) < 2:
        raise ValueError(f"folder {str(folder)!r} holds 1 picture; expected some hundreds or more")
    read_picture(folder / pictures.names[0])
    try:
        return Data(pictures, tuple(read_rows(folder, pictures.names)))
    except ValueError as error:
        return Data(pictures, (), str(error).replace("give a file with --prompts, or", "give"))


def classes_of(labels: Sequence[str | None], held_out: int, path: str | None) -> tuple[str, ...]:
    """Names of the classes, sorted.

    Raises:
        ValueError: fewer than two, or none among the pictures of either side.
    """
    where = f"column {path!r} of {METADATA}" if path else "folders"
    sides = labels[:held_out], labels[held_out:]
    known = tuple(sorted({label for label in sides[1] if label is not None}))
    if len(known) < 2:
        raise ValueError(
            f"the {where} name {len(known)} classes{': ' + known[0] if known else ''}; expected "
            "two or more, in a folder for each class or in the column that --label names"
        )
    if not any(label in known for label in sides[0]):
        raise ValueError(
            f"none of the {held_out} pictures that are held out has a label; label more of them"
        )
    return known


def _looked_up(row: Row, path: Sequence[str]) -> str | None:
    value: Any = row
    for name in path:
        if isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, dict) and name in value:
            value = value[name]
        else:
            return None
    return None if value is None or isinstance(value, list | dict) else str(value)
