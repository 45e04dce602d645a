"""Pictures are found, and read or refused with a reason of one line."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image, ImageFile, ImageOps

from apps.evaluate.pictures.images import BadPicture, digest, find_pictures, read_picture
from tests.apps.evaluate.tiny_networks import picture


def png(width: int, height: int, depth: int = 8, pixels: bytes = b"") -> bytes:
    """A PNG file of an RGB picture whose rows are given with their filter bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        whole = kind + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def refusal(path: Path) -> str:
    with pytest.raises(BadPicture) as caught:
        read_picture(path)
    return str(caught.value)


def test_find(tmp_path: Path) -> None:
    names = ["b.png", "a/z.JPG", "a/b/c.webp", "a.tif", "folder.png/x.gif"]
    others = [".hidden.png", ".cache/x.png", "a/.b/x.png", "notes.txt", "png", "report.json"]
    for name in [*names, *others, "contact-sheet.png", "a/contact-sheet.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_pictures(tmp_path) == [
        "a.tif",
        "a/b/c.webp",
        "a/z.JPG",
        "b.png",
        "folder.png/x.gif",
    ]


def test_find_nothing(tmp_path: Path) -> None:
    (tmp_path / "contact-sheet.png").touch()
    with pytest.raises(ValueError, match=r"holds no pictures: expected files ending in \.bmp"):
        find_pictures(tmp_path)
    with pytest.raises(ValueError, match=r"there is nothing at .*; expected a folder"):
        find_pictures(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"there is a file at .*; expected a folder"):
        find_pictures(tmp_path / "contact-sheet.png")


def test_find_in_locked_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    picture(0).save(tmp_path / "a.png")
    scandir = os.scandir

    def refuse(place: Any) -> Any:
        if Path(place) == locked:
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"cannot open folder '.*locked': Permission denied"):
        find_pictures(tmp_path)


def test_digest(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"content")
    assert digest(tmp_path / "a.png") == hashlib.sha256(b"content").hexdigest()
    (tmp_path / "broken.png").symlink_to(tmp_path / "absent")
    with pytest.raises(BadPicture, match=r"^No such file or directory$"):
        digest(tmp_path / "broken.png")


def test_digest_of_locked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BadPicture, match=r"^Permission denied$"):
        digest(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("1", 1, "png", (255, 255, 255)),
        ("L", 77, "png", (77, 77, 77)),
        ("LA", (77, 10), "png", (77, 77, 77)),
        ("RGB", (10, 20, 30), "png", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), "png", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), "webp", (10, 20, 30)),
        ("CMYK", (0, 255, 255, 0), "tif", (255, 0, 0)),
        pytest.param(
            "YCbCr",
            (76, 85, 255),
            "tif",
            (254, 0, 0),
            marks=pytest.mark.skipif(
                int(PIL.__version__.split(".")[0]) < 13,
                reason="Pillow before 13 cannot read the YCbCr TIFF that it writes",
            ),
        ),
    ],
)
def test_modes(
    tmp_path: Path, mode: str, colour: Any, suffix: str, expected: tuple[int, int, int]
) -> None:
    path = tmp_path / f"a.{suffix}"
    options: dict[str, Any] = {"lossless": True, "exact": True} if suffix == "webp" else {}
    Image.new(mode, (5, 4), colour).save(path, **options)
    with Image.open(path) as written:
        assert written.mode == mode
    image = read_picture(path)
    assert (image.mode, image.size) == ("RGB", (5, 4))
    assert image.getpixel((2, 3)) == expected


@pytest.mark.filterwarnings("ignore:Palette images")
def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (5, 4), 1)
    image.putpalette([9, 9, 9, 10, 20, 30])
    image.save(tmp_path / "a.png", transparency=b"\xff\x00")
    assert read_picture(tmp_path / "a.png").getpixel((0, 0)) == (10, 20, 30)


def test_16_bits_of_colour_are_cut(tmp_path: Path) -> None:
    row = b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0xFFFF, 0, 0x00FF)
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, row))
    image = read_picture(tmp_path / "a.png")
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(0x12, 0x56, 0x9A), (0xFF, 0, 0)]


@pytest.mark.parametrize(("mode", "suffix"), [("I;16", "png"), ("F", "tif"), ("I", "tif")])
def test_other_modes_are_refused(tmp_path: Path, mode: str, suffix: str) -> None:
    Image.new(mode, (5, 4)).save(tmp_path / f"a.{suffix}")
    assert refusal(tmp_path / f"a.{suffix}") == f"mode {mode}, expected 8 bits of grey or colour"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a turn clockwise
    image = Image.new("RGB", (48, 16), "black")
    image.paste("white", (0, 0, 16, 16))
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    found = np.asarray(read_picture(tmp_path / f"a.{suffix}").convert("L"))
    assert found.shape == (48, 16)
    assert found[:16].mean() > 250 and found[16:].mean() < 5


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tif"])
def test_truncated(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    picture(0).save(path)
    read_picture(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reason = refusal(path)
    assert reason == "not a picture" or reason.startswith("broken or truncated (")
    assert "\n" not in reason and str(tmp_path) not in reason


@pytest.mark.parametrize("content", [b"", b"a red star\n", b"\x89PNG\r\n\x1a\n", b"\0" * 1000])
def test_not_a_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert refusal(tmp_path / "a.png") == "not a picture"


def test_reason_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Image.Image) -> None:
        raise SyntaxError("first\n  second")

    picture(0).save(tmp_path / "a.png")
    monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    assert refusal(tmp_path / "a.png") == "broken or truncated (first second)"


def test_memory_is_no_fault_of_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Image.Image) -> None:
        raise MemoryError

    picture(0).save(tmp_path / "a.png")
    monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    with pytest.raises(MemoryError):
        read_picture(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (10_000, 10_000, "broken or truncated (reached the decoder)"),
        (10_001, 10_000, "10001 x 10000 is more than 100 megapixels"),
        (1, 100_000_001, "1 x 100000001 is more than 100 megapixels"),
        (60_000, 60_000, "more than 100 megapixels"),
    ],
)
def test_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, height: int, reason: str
) -> None:
    def decode(image: ImageFile.ImageFile) -> None:
        raise OSError("reached the decoder")

    (tmp_path / "a.png").write_bytes(png(width, height))
    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    assert refusal(tmp_path / "a.png") == reason
