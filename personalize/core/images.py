"""Photos of a folder, checked before training, and the squares that training sees of them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from personalize.core.captions import METADATA, read_captions
from personalize.core.decode import MAX_PIXELS, BadPicture, decode, read_file
from personalize.core.templates import OBJECT

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MASK = ".mask.png"


@dataclass(frozen=True)
class Picture:
    """A square of a photo, as training sees it.

    Attributes:
        pixels: ``(3, resolution, resolution)`` in [-1, 1], transparent parts on white.
        mask: ``(1, resolution, resolution)`` in [0, 1], or None.
        original: ``(height, width)`` of the photo.
        crop: ``(top, left)`` of the square in the resized, and mirrored, photo.
    """

    pixels: Tensor
    mask: Tensor | None
    original: tuple[int, int]
    crop: tuple[int, int]


@dataclass(frozen=True)
class Item:
    """A photo that was found to be whole.

    Attributes:
        name: of the file, without its folder.
        path: of the file.
        sha256: of the file, and of its mask if it has one.
        size: ``(height, width)``, upright.
        prompts: its caption, or the templates; ``{}`` stands for the placeholder.
        mask: file of the mask, or None.
    """

    name: str
    path: Path
    sha256: str
    size: tuple[int, int]
    prompts: tuple[str, ...]
    mask: Path | None = None

    def load(
        self, resolution: int, crop: tuple[float, float] = (0.5, 0.5), flip: bool = False
    ) -> Picture:
        """A square of the photo, whose short side is resized to it.

        Args:
            resolution: side in pixels.
            crop: place of the square, down and across, from 0 up to below 1; 0.5 is the middle.
            flip: mirror the photo, and then cut.

        Raises:
            ValueError: the file is not what it was, or would be enormous at this resolution.
        """
        height, width = (resolution * side // min(self.size) for side in self.size)
        if height * width > MAX_PIXELS:
            raise ValueError(
                f"photo {str(self.path)!r} is {self.size[1]} x {self.size[0]}, too long to be "
                f"resized to {width} x {height}; cut it"
            )
        top, left = (
            int(place * (side - resolution + 1))
            for place, side in zip(crop, (height, width), strict=True)
        )
        box = (left, top, left + resolution, top + resolution)

        def square(path: Path, mode: str, method: Image.Resampling) -> Tensor:
            image = self._reread(path).convert(mode)
            if image.size != (width, height):
                image = image.resize((width, height), method)
            image = (ImageOps.mirror(image) if flip else image).crop(box)
            return torch.from_numpy(np.array(image)).view(resolution, resolution, -1).movedim(2, 0)

        pixels = square(self.path, "RGB", Image.Resampling.BICUBIC).float() / 127.5 - 1
        mask = None
        if self.mask is not None:  # bilinear, because bicubic overshoots at edges
            mask = square(self.mask, "L", Image.Resampling.BILINEAR).float() / 255
        return Picture(pixels, mask, self.size, (top, left))

    def _reread(self, path: Path) -> Image.Image:
        try:
            image = decode(path, read_file(path))
            if (image.height, image.width) != self.size:
                raise BadPicture(f"{path.name} is {image.width} x {image.height}")
        except BadPicture as error:
            raise ValueError(f"photo {str(self.path)!r} changed during the run: {error}") from error
        return image


def find_items(
    folder: str | Path, templates: Sequence[str] = OBJECT, captions: bool = True
) -> tuple[Item, ...]:
    """The photos of a folder, sorted by name.

    Captions come from ``metadata.jsonl`` (``file_name``, ``text``), else from ``<photo>.txt``;
    masks from ``<photo>.mask.png``, white where the loss counts. Other files are left out with one
    warning. Every photo is read to its end here, so that none fails hours later.

    Args:
        folder: whose photos; those of folders in it are left out.
        templates: prompts of photos without a caption.
        captions: False for templates alone.

    Raises:
        ValueError: there is no such folder, no photo in it, or files that cannot be used: broken,
            truncated, no pictures, of more than 100 megapixels or 8 bits, or masks of another size
            than their photo's.
    """
    folder = Path(folder)
    photos, others = list_photos(folder)
    if not photos:
        raise ValueError(
            f"folder {str(folder)!r} holds no photos: expected files ending in "
            f"{', '.join(SUFFIXES)}"
        )
    if others:
        names = ", ".join(path.name for path in others[:5])
        warnings.warn(
            f"{len(others)} files in {str(folder)!r} are no photos and are left out: {names:.200}",
            stacklevel=2,
        )
    texts = read_captions(folder, photos) if captions else {}
    items, broken = [], []
    for path in photos:
        prompts = (texts[path.name],) if path.name in texts else tuple(templates)
        try:
            items.append(_item(path, prompts))
        except BadPicture as error:
            broken.append(str(error))
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(photos)} photos in {str(folder)!r} cannot be used: "
            f"{'; '.join(broken[:10])}; mend or remove them"
        )
    return tuple(items)


def list_photos(folder: Path) -> tuple[list[Path], list[Path]]:
    """Photos of a folder by name, and files that nobody expects beside photos.

    Raises:
        ValueError: it is no folder, or cannot be opened.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise ValueError(f"there is {found} at {str(folder)!r}; expected a folder of photos")
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise ValueError(f"cannot open folder {str(folder)!r}: {error.strerror}") from error
    photos = [
        path
        for path in files
        if path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and not path.name.endswith(MASK)
    ]
    beside = {photo.with_suffix(suffix) for photo in photos for suffix in (".txt", MASK)}
    expected = {*photos, *beside, folder / METADATA}
    return photos, [path for path in files if path not in expected]


def _item(path: Path, prompts: tuple[str, ...]) -> Item:
    content = read_file(path)
    image = decode(path, content)
    digest = hashlib.sha256(content)
    mask = path.with_suffix(MASK)
    if not mask.is_file():
        return Item(path.name, path, digest.hexdigest(), (image.height, image.width), prompts)
    content = read_file(mask)
    painted = decode(mask, content)
    if painted.size != image.size:
        sizes = [f"{width} x {height}" for width, height in (painted.size, image.size)]
        raise BadPicture(f"{mask.name} is {sizes[0]}, but {path.name} is {sizes[1]}")
    if painted.convert("L").getbbox() is None:
        raise BadPicture(f"{mask.name} is all black, so that nothing would be learned")
    digest.update(content)
    return Item(path.name, path, digest.hexdigest(), (image.height, image.width), prompts, mask)
