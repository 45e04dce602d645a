"""Pictures that visitors bring, and examples for those who bring none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from apps.emblem.render import render
from apps.emblem.world import Emblem, Scene, sample_scene
from personalize.core.decode import decode, read_file

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
MAX_BYTES = 20_000_000
SHAPE, COLOUR, TEXTURE = "heart", "blue", "gradient"
"""A thing whose texture the shipped models have never seen."""
_SEEN = (
    ("large", "white"),
    ("small", "yellow"),
    ("large", "green"),
    ("small", "purple"),
    ("large", "white"),
)
"""How large it is in the example photos, and on what."""


def receive(gallery: Any, folder: Path, least: int, most: int) -> tuple[Path, ...]:
    """Copy uploaded pictures, as they are, into a folder of the visitor.

    Args:
        gallery: value of a gallery of uploaded files.
        folder: empty.
        least, most: how many there may be.

    Raises:
        ValueError: too few, too many, too large, broken, or of a format that is not taken.
    """
    paths = [Path(item[0]) for item in gallery or ()]
    if not least <= len(paths) <= most:
        raise ValueError(f"bring {least} to {most} pictures, found {len(paths)}")
    files = []
    for number, path in enumerate(paths):
        content, suffix = read_file(path), path.suffix.lower()
        if len(content) > MAX_BYTES:
            raise ValueError(f"picture {number + 1} has more than {MAX_BYTES // 10**6} MB")
        if suffix not in FORMATS:
            raise ValueError(
                f"picture {number + 1} must be one of {', '.join(FORMATS)}, found {suffix!r:.20}"
            )
        decode(path, content)
        files.append(folder / f"{number:04}{suffix}")
        files[-1].write_bytes(content)
    return tuple(files)


def examples(folder: Path) -> list[tuple[str, str]]:
    """Photos of one thing that the shipped models do not know, and their captions."""
    scenes = [Scene((Emblem(SHAPE, COLOUR, TEXTURE, size),), back) for size, back in _SEEN]
    captions = [f"a {size} {{}} on a {back} background" for size, back in _SEEN]
    return list(zip(_write(folder, scenes, np.random.default_rng(0)), captions, strict=True))


def world(folder: Path, count: int = 64) -> list[str]:
    """Fresh pictures of the Emblem world, to measure others against."""
    rng = np.random.default_rng(1)
    return _write(folder, [sample_scene(rng) for _ in range(count)], rng)


def _write(folder: Path, scenes: Sequence[Scene], rng: np.random.Generator) -> list[str]:
    files = [folder / f"{number:04}.png" for number in range(len(scenes))]
    for path, scene in zip(files, scenes, strict=True):
        Image.fromarray(render(scene, rng)).save(path)
    return [str(path) for path in files]
