"""Photos of a folder: read as they are meant, cut as asked, refused by name where broken."""

from __future__ import annotations

import json
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from personalize.core.class_images import class_images
from personalize.core.images import find_items
from personalize.core.templates import OBJECT, STYLE, read_templates
from tests import tiny

RED, BLUE = (255, 0, 0), (0, 0, 255)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pixels(image: Image.Image) -> torch.Tensor:
    """The picture as training sees it."""
    return torch.from_numpy(np.array(image.convert("RGB"))).movedim(2, 0).float() / 127.5 - 1


# Reading


def test_pixels_are_those_of_the_file_at_its_own_size(tmp_path: Path) -> None:
    image = noise(8, 8)
    image.save(tmp_path / "a.png")
    picture = find_items(tmp_path)[0].load(8)
    assert torch.equal(picture.pixels, pixels(image))
    assert picture.mask is None and picture.original == (8, 8) and picture.crop == (0, 0)


def test_short_side_is_resized_bicubic_and_the_middle_cut_out(tmp_path: Path) -> None:
    image = noise(30, 20)
    image.save(tmp_path / "a.png")
    picture = find_items(tmp_path)[0].load(10)
    expected = image.resize((15, 10), Image.Resampling.BICUBIC).crop((3, 0, 13, 10))
    assert torch.equal(picture.pixels, pixels(expected))
    assert picture.crop == (0, 3) and picture.original == (20, 30)


@pytest.mark.parametrize(
    ("place", "left"), [(0.0, 0), (0.24, 1), (0.5, 2), (0.999, 4)], ids=["0", ".24", ".5", "1"]
)
def test_a_square_is_cut_where_it_is_asked_for(tmp_path: Path, place: float, left: int) -> None:
    image = noise(14, 10)
    image.save(tmp_path / "a.png")
    picture = find_items(tmp_path)[0].load(10, (0.9, place))
    assert picture.crop == (0, left)
    assert torch.equal(picture.pixels, pixels(image.crop((left, 0, left + 10, 10))))


def test_a_flip_mirrors_the_photo_before_it_is_cut(tmp_path: Path) -> None:
    image = noise(14, 10)
    image.save(tmp_path / "a.png")
    picture = find_items(tmp_path)[0].load(10, (0.0, 0.0), flip=True)
    assert torch.equal(picture.pixels, pixels(image.crop((4, 0, 14, 10))).flip(2))
    assert picture.crop == (0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_photo_upright(tmp_path: Path, orientation: int) -> None:
    upright = noise(16, 8)
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(back[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    item = find_items(tmp_path)[0]
    assert item.size == (8, 16)
    assert torch.equal(item.load(8, (0, 0)).pixels, pixels(upright.crop((0, 0, 8, 8))))


def test_transparent_parts_are_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    image.save(tmp_path / "a.png")
    seen = find_items(tmp_path)[0].load(8).pixels
    assert bool((seen[:, :, :4] == 1).all())
    assert seen[:, 0, 7].tolist() == pytest.approx([1, 127 / 127.5 - 1, 127 / 127.5 - 1])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "RGBA"])
def test_every_mode_of_8_bits_is_read(tmp_path: Path, mode: str) -> None:
    noise(8, 8).convert(mode).save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    assert find_items(tmp_path)[0].load(8).pixels.shape == (3, 8, 8)


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    assert torch.equal(find_items(tmp_path)[0].load(8).pixels, pixels(red))


def test_items_are_sorted_and_told_apart_by_their_bytes(tmp_path: Path) -> None:
    for seed, name in enumerate(("b.png", "a.png", "c.JPG")):
        noise(8, 8, seed).save(tmp_path / name)
    shutil.copy(tmp_path / "b.png", tmp_path / "d.png")
    items = find_items(tmp_path)
    assert [item.name for item in items] == ["a.png", "b.png", "c.JPG", "d.png"]
    assert len({item.sha256 for item in items}) == 3


# Masks


def test_a_mask_is_cut_and_mirrored_with_its_photo(tmp_path: Path) -> None:
    noise(20, 10).save(tmp_path / "a.jpg")
    mask = noise(20, 10, 1).convert("L")
    mask.save(tmp_path / "a.mask.png")
    items = find_items(tmp_path)
    assert [item.name for item in items] == ["a.jpg"]
    found = items[0].load(10, (0, 0.3), flip=True)
    values = torch.from_numpy(np.array(mask)).float().flip(1)[:, 3:13] / 255
    assert found.mask is not None and torch.equal(found.mask, values[None])


def test_a_mask_stays_between_0_and_1_when_resized(tmp_path: Path) -> None:
    noise(40, 40).save(tmp_path / "a.png")
    mask = Image.new("L", (40, 40))
    mask.paste(255, (20, 0, 40, 40))
    mask.save(tmp_path / "a.mask.png")
    found = find_items(tmp_path)[0].load(100).mask
    assert found is not None and found.min() == 0 and found.max() == 1


def test_a_changed_mask_changes_the_digest(tmp_path: Path) -> None:
    noise(8, 8).save(tmp_path / "a.png")
    digests = []
    for seed in (None, 1, 2):
        if seed is not None:
            noise(8, 8, seed).convert("L").save(tmp_path / "a.mask.png")
        digests.append(find_items(tmp_path)[0].sha256)
    assert len(set(digests)) == 3


# Texts


def test_photos_without_captions_have_the_templates(tmp_path: Path) -> None:
    noise(8, 8).save(tmp_path / "a.png")
    assert find_items(tmp_path)[0].prompts == OBJECT
    assert find_items(tmp_path, STYLE)[0].prompts == STYLE


def test_captions_come_from_metadata_then_from_text_files(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        noise(8, 8).save(tmp_path / name)
    (tmp_path / "a.txt").write_text("not this")
    (tmp_path / "b.txt").write_text(" a {}\non a table\n")
    row = {"file_name": "a.png", "text": "a {} outside", "scene": {}}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row) + "\n\n")
    prompts = [item.prompts for item in find_items(tmp_path, ("a {}",))]
    assert prompts == [("a {} outside",), ("a {} on a table",), ("a {}",)]
    assert {item.prompts for item in find_items(tmp_path, ("a {}",), captions=False)} == {("a {}",)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "expected an object with file_name and text"),
        ("[" * 10000, "expected an object with file_name and text"),
        ('{"file_name": "a.png"}', "expected an object with file_name and text"),
        ('{"file_name": "a.png", "text": 3}', "must be texts"),
        ('{"file_name": "a.png", "text": " "}', "must be texts"),
        ('{"file_name": "../b.png", "text": "x"}', "names '../b.png', but there is no such photo"),
        ('{"file_name": "a.png", "text": "x"}\n' * 2, "line 2 .* for the second time"),
    ],
)
def test_odd_metadata_names_the_line(tmp_path: Path, line: str, message: str) -> None:
    noise(8, 8).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(ValueError, match=rf"line . of '.*metadata.jsonl'.*{message}|{message}"):
        find_items(tmp_path)


def test_captions_that_are_no_text_are_refused(tmp_path: Path) -> None:
    noise(8, 8).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"cannot read a caption from '.*a.txt': not UTF-8 text"):
        find_items(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"a" * 1_000_001)
    with pytest.raises(ValueError, match="larger than 1 MB"):
        find_items(tmp_path)


def test_templates_are_those_of_the_paper() -> None:
    assert len(OBJECT) == 27 and len(set(OBJECT)) == 27
    assert len(STYLE) == 19
    assert all(text.count("{}") == 1 for text in OBJECT + STYLE)


def test_templates_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "templates.txt"
    path.write_text("a {}\n\n  the {} there \n")
    assert read_templates(path) == ("a {}", "the {} there")
    path.write_text("a {}\na cat\n")
    with pytest.raises(ValueError, match=r"line 2 of '.*' is 'a cat': expected {}"):
        read_templates(path)
    path.write_text(" \n")
    with pytest.raises(ValueError, match="has no templates"):
        read_templates(path)
    with pytest.raises(ValueError, match=r"cannot read templates from '.*none': No such file"):
        read_templates(tmp_path / "none")


# What is left out, and what is refused


def test_other_files_are_left_out_with_one_warning(tmp_path: Path) -> None:
    noise(8, 8).save(tmp_path / "a.png")
    noise(8, 8).save(tmp_path / "._a.png")
    for name in (".DS_Store", "Thumbs.db", "notes.pdf", "b.mask.png"):
        (tmp_path / name).write_bytes(b"\0")
    (tmp_path / "more").mkdir()
    with pytest.warns(UserWarning, match="5 files in .* are no photos") as caught:
        assert [item.name for item in find_items(tmp_path)] == ["a.png"]
    assert len(caught) == 1 and ".DS_Store" in str(caught[0].message)


def bomb() -> bytes:
    """A small PNG file that says it has 40000 x 40000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def text_bomb(path: Path) -> None:
    info = PngInfo()
    info.add_text("comment", "a" * 100_000_000, zip=True)
    noise(8, 8).save(path, pnginfo=info)


def cut(path: Path, suffix: str) -> None:
    noise(64, 64).save(path.with_suffix(suffix))
    content = path.with_suffix(suffix).read_bytes()
    path.with_suffix(suffix).unlink()
    path.write_bytes(content[: len(content) // 2])


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text": (lambda path: path.write_text("hello"), "is no picture"),
    "empty": (lambda path: path.write_bytes(b""), "is no picture"),
    "html": (lambda path: path.write_text("<html>404</html>"), "is no picture"),
    "zip": (lambda path: path.write_bytes(b"PK\3\4" + bytes(100)), "is no picture"),
    "postscript": (
        lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "is no picture",
    ),
    "cut png": (lambda path: cut(path, ".png"), "is broken or truncated"),
    "cut jpeg": (lambda path: cut(path, ".jpg"), "is broken or truncated"),
    "cut webp": (lambda path: cut(path, ".webp"), "is (broken or truncated|no picture)"),
    "bomb": (lambda path: path.write_bytes(bomb()), "40000 x 40000, over 100 megapixels|over 100"),
    "text bomb": (text_bomb, "is broken or truncated"),
    "16 bits": (
        lambda path: Image.fromarray(np.zeros((8, 8), np.uint16)).save(path),
        "is of mode I;16, expected 8 bits",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_photos_are_named_in_one_line(tmp_path: Path, name: str) -> None:
    make, reason = BROKEN[name]
    noise(8, 8).save(tmp_path / "good.png")
    make(tmp_path / "bad.png")
    with pytest.raises(ValueError, match=rf"1 of 2 photos .* bad\.png .*({reason})") as caught:
        find_items(tmp_path)
    assert "\n" not in str(caught.value) and "good" not in str(caught.value)


def test_mutated_photos_raise_nothing_else(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for suffix in ("png", "jpg", "gif", "webp", "bmp", "tif"):
        path = tmp_path / f"a.{suffix}"
        noise(16, 16).save(path)
        content = path.read_bytes()
        for _ in range(60):
            spoiled = bytearray(content)
            for place in generator.integers(0, len(spoiled), 3):
                spoiled[place] = generator.integers(256)
            path.unlink()  # much faster than to write over it
            path.write_bytes(spoiled)
            try:
                find_items(tmp_path)[0].load(8)
            except ValueError as error:
                assert "\n" not in str(error)
        path.unlink()


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (Image.new("L", (8, 9), 255), r"a.mask.png is 8 x 9, but a.png is 8 x 8"),
        (Image.new("L", (8, 8)), r"a.mask.png is all black"),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path: Path, mask: Image.Image, reason: str) -> None:
    noise(8, 8).save(tmp_path / "a.png")
    mask.save(tmp_path / "a.mask.png")
    with pytest.raises(ValueError, match=reason):
        find_items(tmp_path)


def test_folders_without_photos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no photos: expected files ending in .bmp"):
        find_items(tmp_path)
    with pytest.raises(ValueError, match=r"there is nothing at '.*none'; expected a folder"):
        find_items(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="there is a file at"):
        find_items(tmp_path / "file")


def test_a_photo_that_changes_during_the_run_is_named(tmp_path: Path) -> None:
    noise(8, 8).save(tmp_path / "a.png")
    item = find_items(tmp_path)[0]
    noise(9, 9).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"photo '.*a.png' changed during the run: .* 9 x 9"):
        item.load(8)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"changed during the run: a.png cannot be opened"):
        item.load(8)


def test_a_photo_too_long_to_be_resized_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (50_000, 1)).save(tmp_path / "a.png")
    item = find_items(tmp_path)[0]
    with pytest.raises(ValueError, match=r"a.png' is 50000 x 1, too long .* 25600000 x 512"):
        item.load(512)


# Pictures of the class


SMALL: dict[str, Any] = {"num_inference_steps": 1, "height": 16, "width": 16}


def test_class_images_are_drawn_where_they_are_missing(tmp_path: Path, sd: Any) -> None:
    folder = tmp_path / "class"
    items = class_images(sd, "a fox", folder, 3, seed=1, **SMALL)
    assert [item.name for item in items] == [f"class-{n:05}.png" for n in range(3)]
    assert {item.prompts for item in items} == {("a fox",)}
    assert len({item.sha256 for item in items}) == 3
    before = {item.name: item.sha256 for item in items}
    (folder / "class-00001.png").unlink()
    again = class_images(sd, "a fox", folder, 3, seed=1, **SMALL)
    assert {item.name: item.sha256 for item in again} == before
    assert len(class_images(sd, "a fox", folder, 2, **SMALL)) == 3


def test_photos_of_the_user_count_among_class_images(tmp_path: Path, sd: Any) -> None:
    noise(16, 16).save(tmp_path / "mine.png")
    names = [item.name for item in class_images(sd, "a fox", tmp_path, 2, **SMALL)]
    assert names == ["class-00000.png", "mine.png"]


def test_class_images_of_another_prompt_are_refused(tmp_path: Path, sd: Any) -> None:
    class_images(sd, "a fox", tmp_path, 1, **SMALL)
    with pytest.raises(ValueError, match="was drawn for 'a fox', not for 'an owl'"):
        class_images(sd, "an owl", tmp_path, 2, **SMALL)
    with pytest.raises(ValueError, match="count must be at least 1, found 0"):
        class_images(sd, "a fox", tmp_path, 0)


def test_an_interrupted_drawing_leaves_no_half_picture(tmp_path: Path, sd: Any) -> None:
    calls = []

    def stop(pipe: Any, step: int, time: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        calls.append(step)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return kwargs

    with pytest.raises(KeyboardInterrupt):
        class_images(sd, "a fox", tmp_path, 2, callback_on_step_end=stop, **SMALL)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["class-00000.png"]
    whole = class_images(sd, "a fox", tmp_path, 2, **SMALL)
    fresh = class_images(tiny.sd(), "a fox", tmp_path / "fresh", 2, **SMALL)
    assert [item.sha256 for item in whole] == [item.sha256 for item in fresh]


def test_large_photos_are_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise(12, 12).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(tmp_path / "a.png").close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_items(tmp_path)[0].size == (12, 12)
