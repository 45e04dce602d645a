"""Pictures show what their scene says."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from apps.emblem import Emblem, EmblemDataset, Scene, render
from apps.emblem.__main__ import app
from apps.emblem.data import export, parse_emblem, photos
from apps.emblem.render import PALETTE
from apps.emblem.world import ALL_SHAPES, ALL_TEXTURES, SIZES, STYLES, parse


def drawn(emblem: Emblem, background: str = "white", seed: int = 0) -> np.ndarray:
    return render(Scene((emblem,), background), np.random.default_rng(seed))


def covered(picture: np.ndarray, background: str = "white") -> np.ndarray:
    return np.abs(picture.astype(int) - PALETTE[background]).max(axis=-1) > 40


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_large_is_larger_and_whole_in_the_picture(shape: str) -> None:
    areas = {}
    for size in SIZES:
        mask = covered(drawn(Emblem(shape, "blue", "solid", size)))
        assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any()
        areas[size] = mask.sum()
    assert areas["large"] > 1.8 * areas["small"]


def test_solid_circle_has_the_area_and_colour_of_a_circle() -> None:
    picture = drawn(Emblem("circle", "blue", "solid", "large"), seed=3)
    rng = np.random.default_rng(3)
    radius = 0.92 * rng.uniform(20.0, 22.5)
    blue, white = np.array(PALETTE["blue"]), np.array(PALETTE["white"])
    cover = ((picture - white) / (blue - white.astype(float))).mean(axis=-1)
    assert cover.sum() == pytest.approx(np.pi * radius**2, rel=0.005)
    assert (cover > 0.02).sum() > (cover > 0.98).sum()


def test_every_pair_of_looks_differs() -> None:
    looks = [
        drawn(Emblem(shape, "green", texture, size, style))
        for shape in ALL_SHAPES
        for texture in ALL_TEXTURES
        for size in SIZES
        for style in STYLES
    ]
    flat = np.stack(looks).reshape(len(looks), -1)
    assert len(np.unique(flat, axis=0)) == len(looks)


@pytest.mark.parametrize(
    ("texture", "low", "high"),
    [("striped", 0.4, 0.6), ("checkered", 0.4, 0.6), ("dotted", 0.2, 0.4)],
)
def test_textures_are_as_dark_as_their_pattern(texture: str, low: float, high: float) -> None:
    picture = drawn(Emblem("square", "yellow", texture, "large"))
    inside = picture[covered(picture)]
    dark = (inside.astype(int).max(axis=-1) < 150).mean()
    assert low < dark < high


def test_two_emblems_stand_left_and_right() -> None:
    left = Emblem("square", "red", "solid", "large")
    right = Emblem("square", "blue", "solid", "large")
    for seed in range(20):
        picture = render(Scene((left, right), "white"), np.random.default_rng(seed))
        red = (np.abs(picture.astype(int) - PALETTE["red"]).max(axis=-1) < 10).nonzero()[1]
        blue = (np.abs(picture.astype(int) - PALETTE["blue"]).max(axis=-1) < 10).nonzero()[1]
        assert len(red) > 100 and len(blue) > 100 and red.max() < 32 <= blue.min()


def test_unset_attributes_are_refused() -> None:
    with pytest.raises(ValueError, match="every attribute must be set"):
        drawn(Emblem("star", None, "solid", "large"))
    with pytest.raises(ValueError, match="background is None"):
        render(Scene((Emblem("star", "red", "solid", "large"),), None), np.random.default_rng(0))


def test_items_depend_on_seed_and_index_alone() -> None:
    first, again, other = EmblemDataset(50, 7), EmblemDataset(20, 7), EmblemDataset(50, 8)
    np.testing.assert_array_equal(first[13].image, again[13].image)
    assert first[13].caption == again[13].caption
    assert any(first[i].scene != other[i].scene for i in range(5))
    with pytest.raises(IndexError):
        again[20]


def test_export_is_an_image_folder(tmp_path: Path) -> None:
    export(tmp_path, 5, seed=1, held_out=False)
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    dataset = EmblemDataset(5, 1)
    assert [row["text"] for row in rows] == [dataset[i].caption for i in range(5)]
    for index, row in enumerate(rows):
        np.testing.assert_array_equal(Image.open(tmp_path / row["file_name"]), dataset[index].image)


def test_photos_keep_the_concept_and_vary_the_rest() -> None:
    concept = Emblem("bolt", "yellow", "ringed", None, "outlined")
    items = photos(concept, 12, seed=0)
    emblems = [item.scene.emblems[0] for item in items]
    assert {(e.shape, e.colour, e.texture, e.style) for e in emblems} == {
        ("bolt", "yellow", "ringed", "outlined")
    }
    assert {e.size for e in emblems} == set(SIZES)
    assert len({item.scene.background for item in items}) > 2
    for item in items:
        named = item.caption.replace("{}", "outlined ringed yellow bolt")
        assert parse(named) == item.scene


def test_phrases_are_read_with_and_without_an_article() -> None:
    ring = Emblem("ring", "green", None, "small", None)
    assert parse_emblem("small green ring") == parse_emblem("A small green ring") == ring
    assert parse_emblem("an embossed arrow").style == "embossed"
    assert parse_emblem("arrow").shape == "arrow"


def test_the_photos_command_writes_an_image_folder(tmp_path: Path) -> None:
    phrase = "an outlined ringed yellow bolt"
    command = ["photos", "--concept", phrase, "--out", str(tmp_path), "--n", "3", "--seed", "5"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    items = photos(Emblem("bolt", "yellow", "ringed", None, "outlined"), 3, seed=5)
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [item.caption for item in items]
    for row, item in zip(rows, items, strict=True):
        np.testing.assert_array_equal(Image.open(tmp_path / row["file_name"]), item.image)


@pytest.mark.parametrize(
    ("name", "concept"),
    [
        ("arrow", Emblem("arrow", "green", "solid", None)),
        ("flower", Emblem("flower", "pink", "dotted", None)),
    ],
)
def test_the_example_photos_show_one_concept(name: str, concept: Emblem) -> None:
    folder = Path(__file__).parents[3] / "assets" / "photos" / name
    items = photos(concept, 5, seed=0)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [item.caption for item in items]
    for row, item in zip(rows, items, strict=True):
        np.testing.assert_array_equal(Image.open(folder / row["file_name"]), item.image)


@pytest.mark.parametrize(
    ("phrase", "words"),
    [
        ("a green ring", "expected texture, colour and shape"),
        ("a striped ring", "expected texture, colour and shape"),
        ("a small striped green ring", "without the size"),
        ("a striped green ring on a red background", "without a background"),
        ("a red ring on the left and a star on the right", "expected one emblem"),
        ("a striped green dog", "in words of the world"),
    ],
)
def test_a_concept_that_does_not_say_what_stays_is_one_line(
    tmp_path: Path, phrase: str, words: str
) -> None:
    out = tmp_path / "photos"
    result = CliRunner().invoke(app, ["photos", "--concept", phrase, "--out", str(out)])
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not out.exists()


def test_renders_of_prompts_show_them_and_differ(tmp_path: Path) -> None:
    captions = tmp_path / "captions.txt"
    pair = "a small dotted pink ring on the left and a large solid blue heart on the right"
    texts = ["a large solid red star on a white background", f"{pair} on a green background"]
    captions.write_text("\n".join(texts))
    options = ["--prompts", str(captions), "--n", "2", "--out", str(tmp_path / "made")]
    assert CliRunner().invoke(app, ["render", *options]).exit_code == 0
    rows = [json.loads(x) for x in (tmp_path / "made" / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [text for text in texts for _ in range(2)]
    pictures = [np.asarray(Image.open(tmp_path / "made" / row["file_name"])) for row in rows]
    assert not np.array_equal(pictures[0], pictures[1])
    for picture, row in zip(pictures, rows, strict=True):
        background = row["scene"]["background"]
        assert tuple(picture[0, 0]) == tuple(PALETTE[background])
        assert covered(picture, background).any()


def test_renders_of_prompts_that_leave_something_open_are_refused(tmp_path: Path) -> None:
    captions = tmp_path / "captions.txt"
    captions.write_text("a red star on a white background\n")
    options = ["--prompts", str(captions), "--out", str(tmp_path / "made")]
    result = CliRunner().invoke(app, ["render", *options])
    assert result.exit_code == 2
    assert "expected one that states size, texture, colour and shape" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "made").exists()
