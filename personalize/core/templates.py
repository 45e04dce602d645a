"""Sentences to put a placeholder into, for pictures that have no caption.

Source: R. Gal et al., "An Image is Worth One Word", 2022 (arXiv 2208.01618), the authors' code.
"""

from __future__ import annotations

from pathlib import Path

OBJECT = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
)
# Two stand there twice, as in the authors' list.
STYLE = (
    "a painting in the style of {}",
    "a rendering in the style of {}",
    "a cropped painting in the style of {}",
    "the painting in the style of {}",
    "a clean painting in the style of {}",
    "a dirty painting in the style of {}",
    "a dark painting in the style of {}",
    "a picture in the style of {}",
    "a cool painting in the style of {}",
    "a close-up painting in the style of {}",
    "a bright painting in the style of {}",
    "a cropped painting in the style of {}",
    "a good painting in the style of {}",
    "a close-up painting in the style of {}",
    "a rendition in the style of {}",
    "a nice painting in the style of {}",
    "a small painting in the style of {}",
    "a weird painting in the style of {}",
    "a large painting in the style of {}",
)
TEMPLATES = {"object": OBJECT, "style": STYLE}


def read_templates(path: str | Path) -> tuple[str, ...]:
    """Templates of a text file, one on each line, each with ``{}`` for the placeholder.

    Raises:
        ValueError: the file cannot be read, is empty, or a line has no ``{}``.
    """
    lines = read_text(Path(path), "templates").splitlines()
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ValueError(f"{str(path)!r} has no templates: expected lines such as {OBJECT[0]!r}")
    for number, line in numbered:
        if "{}" not in line:
            raise ValueError(
                f"line {number} of {str(path)!r} is {line!r:.60}: expected {{}} where the "
                f"placeholder goes, as in {OBJECT[0]!r}"
            )
    return tuple(line for _, line in numbered)


def read_text(path: Path, what: str) -> str:
    """Text of a UTF-8 file of up to a megabyte; anything else raises one line."""
    try:
        if path.stat().st_size > 1_000_000:
            raise ValueError(f"cannot read {what} from {str(path)!r}: larger than 1 MB")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {what} from {str(path)!r}: not UTF-8 text") from error
    except OSError as error:
        raise ValueError(f"cannot read {what} from {str(path)!r}: {error.strerror}") from error
