"""Captions of photos, as image folders usually hold them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from personalize.core.templates import read_text

METADATA = "metadata.jsonl"


def read_captions(folder: Path, photos: Sequence[Path]) -> dict[str, str]:
    """Captions by file name: of ``metadata.jsonl``, else of a text file beside the photo.

    Raises:
        ValueError: a file cannot be read; a row of ``metadata.jsonl`` is no object with
            ``file_name`` and ``text``, or names a photo that is not there or was named before.
    """
    captions = {}
    for photo in photos:
        beside = photo.with_suffix(".txt")
        if beside.is_file() and (text := " ".join(read_text(beside, "a caption").split())):
            captions[photo.name] = text
    if (folder / METADATA).is_file():
        captions |= _from_metadata(folder / METADATA, {photo.name for photo in photos})
    return captions


def _from_metadata(path: Path, names: set[str]) -> dict[str, str]:
    captions: dict[str, str] = {}
    for number, line in enumerate(read_text(path, "captions").split("\n"), 1):
        if not line.strip():
            continue
        where = f"line {number} of {str(path)!r}"
        try:
            row = json.loads(line)
            name, text = row["file_name"], row["text"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{where} is {line!r:.60}: expected an object with file_name and text"
            ) from error
        if not isinstance(name, str) or not isinstance(text, str) or not text.strip():
            raise ValueError(f"{where}: file_name and text must be texts, found {name!r}, {text!r}")
        if name not in names:
            raise ValueError(f"{where} names {name!r}, but there is no such photo beside it")
        if name in captions:
            raise ValueError(f"{where} names {name!r} for the second time")
        captions[name] = " ".join(text.split())
    return captions
