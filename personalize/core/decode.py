"""Pictures from files of any origin: whole, upright and opaque, or refused with the reason."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

# Named, because another decoder of Pillow starts a program.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MODES = ("1", "CMYK", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr")
MAX_PIXELS = 100_000_000
MAX_BYTES = 500_000_000


class BadPicture(ValueError):
    """A file that cannot be used; the message is its name and the reason."""


def read_file(path: Path) -> bytes:
    """Content of a file; raises BadPicture if it cannot be had."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadPicture(f"{path.name} has more than {MAX_BYTES // 10**6} MB")
        return path.read_bytes()
    except OSError as error:
        raise BadPicture(f"{path.name} cannot be opened ({error.strerror})") from error


def decode(path: Path, content: bytes) -> Image.Image:
    """A picture, upright, of grey or colour; transparent parts are on white.

    Raises:
        BadPicture: broken, truncated, no picture at all, of more than 100 megapixels, or of a mode
            that 8 bits do not hold.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and odd metadata
            with Image.open(BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise BadPicture(f"{path.name} is {width} x {height}, over 100 megapixels")
                if image.mode not in MODES:
                    raise BadPicture(
                        f"{path.name} is of mode {image.mode}, expected 8 bits of grey or colour"
                    )
                upright = ImageOps.exif_transpose(image)
                if upright.has_transparency_data:
                    colours = upright.convert("RGBA")
                    white = Image.new("RGBA", colours.size, "white")
                    return Image.alpha_composite(white, colours).convert("RGB")
                return upright.convert("L" if image.mode in ("1", "L") else "RGB")
    except (BadPicture, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise BadPicture(f"{path.name} is over 100 megapixels") from error
    except Image.UnidentifiedImageError as error:
        raise BadPicture(f"{path.name} is no picture") from error
    except Exception as error:  # decoders raise errors of many kinds on broken files
        reason = " ".join(str(error).split())
        raise BadPicture(f"{path.name} is broken or truncated ({reason:.100})") from error
