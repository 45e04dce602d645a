"""Pictures of a folder: found, hashed, read, and named where they cannot be."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from PIL import Image, ImageOps

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MODES = ("1", "CMYK", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")
MAX_PIXELS = 100_000_000
SHEET = "contact-sheet.png"


class BadPicture(ValueError):
    """A file that cannot be read as a picture; the message is the reason."""


def find_pictures(folder: Path) -> list[str]:
    """Names of the pictures in a folder and below it, relative and sorted.

    A picture is a file with a usual suffix. Hidden files and folders, and the contact sheets that
    ``diffusteer sample`` writes, are left out.

    Raises:
        ValueError: there is no such folder, no picture in it, or a folder in it cannot be opened.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise ValueError(f"there is {found} at {str(folder)!r}; expected a folder of pictures")
    names = []
    for place, folders, files in os.walk(folder, onerror=_stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [
            Path(place, name).relative_to(folder).as_posix()
            for name in files
            if name.lower().endswith(SUFFIXES) and not name.startswith(".") and name != SHEET
        ]
    if not names:
        raise ValueError(
            f"folder {str(folder)!r} holds no pictures: expected files ending in "
            f"{', '.join(SUFFIXES)}"
        )
    return sorted(names)


def _stop(error: OSError) -> None:
    raise ValueError(f"cannot open folder {error.filename!r}: {error.strerror}") from error


def digest(path: Path) -> str:
    """Hash of a file's bytes.

    Raises:
        BadPicture: the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadPicture(error.strerror or "cannot be opened") from error


def read_picture(path: Path) -> Image.Image:
    """A picture as 8-bit RGB, turned upright as its EXIF data say; alpha is dropped.

    Raises:
        BadPicture: broken, truncated, no picture at all, of more than 100 megapixels, or of a mode
            that 8 bits do not hold.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise BadPicture(f"{width} x {height} is more than 100 megapixels")
            if image.mode not in MODES:
                raise BadPicture(f"mode {image.mode}, expected 8 bits of grey or colour")
            return ImageOps.exif_transpose(image).convert("RGB")
    except (BadPicture, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise BadPicture("more than 100 megapixels") from error
    except Image.UnidentifiedImageError as error:
        raise BadPicture("not a picture") from error
    except Exception as error:  # decoders raise errors of many kinds on broken files
        reason = " ".join(str(error).split())
        raise BadPicture(f"broken or truncated ({reason})") from error
