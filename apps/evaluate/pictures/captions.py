"""What pictures were asked to show, as the usual conventions write it down."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from apps.evaluate.pictures.images import find_pictures

Row = Mapping[str, Any]
"""Fields of a picture; ``text`` is its prompt."""

METADATA = "metadata.jsonl"


def read_rows(folder: Path, names: Sequence[str], source: Path | None = None) -> list[Row]:
    """The row of each of these pictures of a folder.

    Rows come from ``source`` if it is given: a ``.jsonl`` file with a ``file_name`` in each row, or
    a file that has one row (``.jsonl``) or one prompt (any other) for each picture of the folder,
    by sorted name. Else from the nearest ``metadata.jsonl``, in the picture's own folder or above
    it, whose file names are relative to where it is; else for each picture from a text file of its
    name; else from what ``diffusteer sample`` or AUTOMATIC1111 wrote into it.

    Raises:
        ValueError: a file cannot be read, or a picture has no prompt.
    """
    pictures = find_pictures(folder)  # also those that are left out: a row is for each
    rows: dict[str, Row] = {}
    if source is not None:
        rows = _from_file(source, pictures, PurePosixPath())
    else:
        for metadata, own in _by_metadata(folder, pictures).items():
            if metadata is None:
                rows |= {name: _beside_or_within(folder / name) for name in set(own) & set(names)}
            else:
                place = PurePosixPath(metadata.parent.relative_to(folder).as_posix())
                found = _from_file(metadata, own, place)
                rows |= {name: found[name] for name in own if name in found}
    lacking = [name for name in names if not _text(rows.get(name))]
    if lacking:
        raise ValueError(
            f"{len(lacking)} of {len(names)} pictures in {str(folder)!r} have no prompt, the first "
            f"is {lacking[0]}; give a file with --prompts, or {METADATA} with file_name and text"
        )
    return [rows[name] for name in names]


def _text(row: Row | None) -> str:
    text = (row or {}).get("text")
    return text.strip() if isinstance(text, str) else ""


def _by_metadata(folder: Path, names: Sequence[str]) -> dict[Path | None, list[str]]:
    """Names of pictures by the ``metadata.jsonl`` that is nearest to them."""
    places = [PurePosixPath(name).parent for name in names]
    nearest = {
        place: next(
            (file for up in (place, *place.parents) if (file := folder / up / METADATA).is_file()),
            None,
        )
        for place in dict.fromkeys(places)
    }
    found: dict[Path | None, list[str]] = {}
    for place, name in zip(places, names, strict=True):
        found.setdefault(nearest[place], []).append(name)
    return found


def _from_file(path: Path, names: Sequence[str], place: PurePosixPath) -> dict[str, Row]:
    """Rows of a file by the names of pictures; those in the file are relative to ``place``."""
    lines = enumerate(_read(path).split("\n"), 1)
    numbered = [(number, line.strip()) for number, line in lines if line.strip()]
    if path.suffix.lower() != ".jsonl":
        return _in_order(path, names, [{"text": line} for _, line in numbered])
    rows = {number: _parse(path, number, line) for number, line in numbered}
    nameless = [number for number, row in rows.items() if "file_name" not in row]
    if len(nameless) == len(rows):
        return _in_order(path, names, list(rows.values()))
    if nameless:
        raise ValueError(f"line {nameless[0]} of {str(path)!r} has no file_name, others have one")
    return {(place / str(row["file_name"])).as_posix(): row for row in rows.values()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ValueError(f"cannot read prompts from {str(path)!r}: {reason}") from error


def _in_order(path: Path, names: Sequence[str], rows: Sequence[Row]) -> dict[str, Row]:
    if len(rows) != len(names):
        raise ValueError(
            f"{str(path)!r} has {len(rows)} prompts for {len(names)} pictures; expected one for "
            "each, or rows with a file_name"
        )
    return dict(zip(names, rows, strict=True))


def _parse(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number} of {str(path)!r} is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} of {str(path)!r} is no JSON object: {line[:40]!r}")
    return row


def _beside_or_within(path: Path) -> Row:
    beside = path.with_suffix(".txt")
    if beside.is_file():
        return {"text": _read(beside)}
    with Image.open(path) as image:
        own, other = image.info.get("diffusteer"), image.info.get("parameters")
    if isinstance(own, str):
        try:
            return {"text": json.loads(own)["prompt"]}
        except (ValueError, LookupError, TypeError):
            return {}
    if isinstance(other, str):
        return {"text": _prompt_of(other)}
    return {}


def _prompt_of(parameters: str) -> str:
    """What stands above the negative prompt and the settings, which are the last such lines."""
    text = f"\n{parameters}"
    above, found, _ = text.rpartition("\nSteps:")
    return (above if found else text).partition("\nNegative prompt:")[0]
