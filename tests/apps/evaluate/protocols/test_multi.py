"""The multi-concept protocol: cases with exact scores, and scenes of two emblems."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from apps.emblem.data import export_photos
from apps.emblem.render import render
from apps.emblem.world import Emblem, Scene, caption
from apps.evaluate.networks.boxes import Box
from apps.evaluate.pictures.workplace import Workplace
from apps.evaluate.protocols.multi import multi
from apps.evaluate.result import Result
from apps.evaluate.settings import EvaluateSettings

COLOURS = {"dog": "red", "big cat": "lime", "mug": "blue"}
TILES = {"dog": (0, 0, 20, 20), "big cat": (20, 0, 40, 20), "mug": (40, 0, 60, 20)}
BLACK = (0, 20, 60, 40)
TEXTS = {"on a beach": (1.0, 1.0, 1.0, 3.0), "the whole": (1.0, 0.0, 0.0, 0.0)}


class Shares:
    """Shares of red, green, blue and black in a picture."""

    name, kind, dimension = "shares", "clip", 4

    def prepare(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).double() / 255
        dark = 1 - pixels.amax(2)
        return torch.cat([pixels.mean((0, 1)), dark.mean()[None]])[:, None, None].float()

    def features(self, batch: Tensor) -> Tensor:
        return batch[:, :, 0, 0]

    def text(self, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([TEXTS[prompt] for prompt in prompts])

    def cut(self, prompt: str) -> int:
        return 0

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "kind": self.kind}


class Finder:
    """Finds the boxes that it is given, whatever it is asked for."""

    name = "finder"

    def __init__(self, *boxes: Box) -> None:
        self.boxes = list(boxes)
        self.asked: list[tuple[str, ...]] = []

    def detect(self, image: Image.Image, labels: Sequence[str]) -> list[Box]:
        self.asked.append(tuple(labels))
        return self.boxes

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}


def seen(label: str, where: str | None = None, score: float = 0.9) -> Box:
    """A box of a label, around its own tile or that of another."""
    return Box(label, score, TILES[where or label])


PERFECT = [seen(label) for label in COLOURS]


@pytest.fixture
def references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One plain picture of each concept, to be seen by the stub above."""
    monkeypatch.setattr(Workplace, "text_extractor", lambda *_: Shares())
    for label, colour in COLOURS.items():
        _plain(tmp_path / "references" / label.replace(" ", "_") / "0.png", colour)
    return tmp_path / "references"


def _plain(path: Path, colour: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 10), colour).save(path)


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """One picture of all three, on black, with its row."""
    folder = tmp_path / "generated"
    folder.mkdir()
    image = Image.new("RGB", (60, 40))
    for label, box in TILES.items():
        image.paste(COLOURS[label], box)
    image.save(folder / "0.png")
    _row(folder)
    return folder


def _row(folder: Path, **fields: Any) -> None:
    row = {
        "file_name": "0.png",
        "text": "a dog, a big cat and a mug on a beach",
        "background": "on a beach",
    }
    row = {key: value for key, value in (row | fields).items() if value is not None}
    (folder / "metadata.jsonl").write_text(json.dumps(row))


@pytest.fixture
def measure(generated: Path, references: Path, settings: EvaluateSettings) -> Any:
    """CP-CLIP, the same matched, and the share of concepts found."""

    def measured(*boxes: Box, **options: Any) -> tuple[float, ...]:
        found = multi(generated, references, detector=Finder(*boxes), settings=settings, **options)
        return tuple(found[name].value for name in ("cp_clip", "cp_clip_matched", "detected"))

    return measured


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        (PERFECT, (1, 1, 1)),
        (PERFECT[::-1], (1, 1, 1)),
        ([], (0, 0, 0)),
        (PERFECT[:2], (2 / 3, 2 / 3, 2 / 3)),
        ([*PERFECT, Box("dog", 0.8, BLACK)], (1, 1, 1)),
        ([*PERFECT, Box("dog", 0.9, BLACK)], (1, 1, 1)),
        ([*PERFECT, Box("dog", 0.95, BLACK)], (2 / 3, 2 / 3, 1)),
        ([seen("dog", "mug"), seen("mug", "dog"), seen("big cat")], (1, 1 / 3, 1)),
        ([seen("dog"), seen("big cat", "dog"), seen("mug", "dog")], (1, 1 / 3, 1)),
        ([*PERFECT[:1], Box("bird", 0.99, TILES["mug"])], (1 / 3, 1 / 3, 1 / 3)),
    ],
    ids=[
        *("perfect", "in any order", "none", "one missing", "a worse one", "the first of equals"),
        *("a surer bad one", "swapped", "all alike", "not asked for"),
    ],
)
def test_cases_with_exact_scores(
    measure: Any, boxes: list[Box], expected: tuple[float, ...]
) -> None:
    assert measure(*boxes) == pytest.approx(expected, abs=1e-6)


def test_a_reference_from_another_side_counts_by_its_cosine(measure: Any, references: Path) -> None:
    _plain(references / "dog" / "1.png", "yellow")
    assert measure(*PERFECT)[0] == pytest.approx((2 + (1 + 2**-0.5) / 2) / 3, abs=1e-6)


def test_crops_are_the_pixels_that_a_box_touches(measure: Any, references: Path) -> None:
    inside = Box("dog", 0.9, (18.5, 0.2, 20.0, 19.9))
    assert measure(inside)[0] == pytest.approx(1 / 3, abs=1e-6)
    across = Box("dog", 0.9, (18.5, 0.0, 20.5, 20.0))  # two columns of red, one of green
    assert measure(across)[0] == pytest.approx(2 / 5**0.5 / 3, abs=1e-6)


def test_a_margin_is_in_longer_sides_and_stays_in_the_picture(measure: Any) -> None:
    corner = Box("dog", 0.9, (0.0, 0.0, 10.0, 20.0))  # to 30 x 40: all red, half of the cat
    red, green, black = 400, 200, 600
    expected = red / math.hypot(red, green, black)
    assert measure(corner, margin=1.0)[1] == pytest.approx(expected / 3, abs=1e-6)
    whole = 400 / math.hypot(400, 400, 400, 1200)
    assert measure(corner, margin=9.0)[1] == pytest.approx(whole / 3, abs=1e-6)
    inner = Box("dog", 0.9, (20.0, 20.0, 40.0, 30.0))  # from (10, 10): some of all but the mug
    expected = 100 / math.hypot(100, 200, 100, 800)
    assert measure(inner, margin=0.5)[1] == pytest.approx(expected / 3, abs=1e-6)
    for margin in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="margin must be a finite number from 0 up"):
            measure(corner, margin=margin)


def test_concepts_come_from_the_prompt_or_the_row(
    generated: Path, references: Path, settings: EvaluateSettings
) -> None:
    finder = Finder(*PERFECT)
    multi(generated, references, detector=finder, settings=settings)
    _row(generated, text="a big cat, and dogmatic mugs")
    multi(generated, references, detector=finder, settings=settings)
    _row(generated, text="two of them", concepts=["mug", "dog"])
    found = multi(generated, references, detector=finder, settings=settings)
    assert finder.asked == [("big cat", "dog", "mug"), ("big cat",), ("mug", "dog")]
    assert found["cp_clip"].value == pytest.approx(1)
    assert found["detected"].value == 1
    assert found.images is not None
    assert found.images.texts == found.images.groups == ("mug, dog: on a beach",)


def test_a_label_within_a_longer_one_is_not_meant(
    generated: Path, references: Path, settings: EvaluateSettings
) -> None:
    _plain(references / "cat" / "0.png", "white")
    finder = Finder(*PERFECT)
    multi(generated, references, detector=finder, settings=settings)
    _row(generated, text="a big cat and a cat")
    multi(generated, references, detector=finder, settings=settings)
    assert finder.asked == [("big cat", "dog", "mug"), ("big cat", "cat")]


def test_what_the_detector_refuses_names_the_picture(
    generated: Path, references: Path, settings: EvaluateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("too small")

    monkeypatch.setattr(Finder, "detect", refuse)
    with pytest.raises(ValueError, match=r"^0.png: too small$"):
        multi(generated, references, detector=Finder(), settings=settings)


def test_texts_are_those_of_the_background_or_the_whole_prompt(
    generated: Path, references: Path, settings: EvaluateSettings
) -> None:
    _row(generated, text="the whole", concepts=["dog"])
    found = multi(generated, references, detector=Finder(), settings=settings)
    assert found["ti_clip"].value == pytest.approx(1, abs=1e-6)  # thirds of a half, and a half
    assert found["ti_clip"].better == "neither"
    assert found.settings["ti_clip_text"] == "background"
    _row(generated, text="the whole", concepts=["dog"], background=None)
    whole = multi(generated, references, detector=Finder(), full_prompt=True, settings=settings)
    assert whole["ti_clip"].value == pytest.approx(12**-0.5, abs=1e-6)
    assert whole.settings["ti_clip_text"] == "full"
    with pytest.raises(ValueError, match=r"0.png has no prompt of the background; .*--full-prompt"):
        multi(generated, references, detector=Finder(), settings=settings)


@pytest.mark.parametrize(
    ("concepts", "found"),
    [
        (["dog", "fox"], r"\['dog', 'fox'\]"),
        ("dog", "'dog'"),
        ([["dog"]], r"\[\['dog'\]\]"),
        ({"dog": 1}, "{'dog': 1}"),
        ([], r"\[\]"),
    ],
)
def test_unknown_concepts_are_one_line(
    generated: Path, references: Path, settings: EvaluateSettings, concepts: Any, found: str
) -> None:
    _row(generated, text="a fox", concepts=concepts)
    with pytest.raises(ValueError, match=f"^0.png asks for concepts {found}; .* dog, mug under"):
        multi(generated, references, detector=Finder(), settings=settings)


def test_a_reference_outside_a_folder_is_refused(
    generated: Path, references: Path, settings: EvaluateSettings
) -> None:
    _plain(references / "loose.png", "red")
    with pytest.raises(ValueError, match=r"reference 'loose.png' is in no folder; expected a"):
        multi(generated, references, detector=Finder(), settings=settings)


def test_pictures_of_one_request_count_together(
    generated: Path, references: Path, settings: EvaluateSettings
) -> None:
    with Image.open(generated / "0.png") as image:
        for number, colour in ((1, "white"), (2, "red")):
            other = image.copy()
            other.paste(colour, BLACK)
            other.save(generated / f"{number}.png")
    rows = [
        {"file_name": f"{number}.png", "text": "-", "background": "on a beach", "concepts": asked}
        for number, asked in enumerate([["dog"], ["dog"], ["dog", "mug"]])
    ]
    (generated / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = multi(generated, references, detector=Finder(seen("dog")), settings=settings)
    assert found["cp_clip"].value == pytest.approx((1 + 1 / 2) / 2, abs=1e-6)
    assert found["cp_clip"].n == 3
    assert found["cp_clip"].interval == pytest.approx((0.5, 1), abs=1e-6)


def test_the_result_says_how_it_was_made(
    generated: Path, references: Path, tmp_path: Path, settings: EvaluateSettings
) -> None:
    found = multi(generated, references, detector=Finder(*PERFECT), settings=settings)
    assert found.settings["detector"] == {"name": "finder"}
    assert found.settings["extractor"] == Shares().describe()
    assert found.settings["pictures"] == 1
    assert [score.interval for score in found.scores] == [None] * 4
    found.write(tmp_path / "result.json")
    assert Result.read(tmp_path / "result.json").settings == found.settings
    _plain(references / "dog" / "1.png", "yellow")
    other = multi(generated, references, detector=Finder(*PERFECT), settings=settings)
    assert other.settings["references"] != found.settings["references"]


EMBLEMS = {
    "striped green ring": Emblem("ring", "green", "striped", "large"),
    "solid red star": Emblem("star", "red", "solid", "large"),
    "dotted blue cross": Emblem("cross", "blue", "dotted", "large"),
    "checkered pink heart": Emblem("heart", "pink", "checkered", "large"),
}


def test_scenes_of_two_emblems_are_seen_and_told_from_others(
    tmp_path: Path, settings: EvaluateSettings
) -> None:
    generated, right, wrong = (tmp_path / name for name in ("generated", "right", "wrong"))
    labels = list(EMBLEMS)
    for label, other in zip(labels, labels[1:] + labels[:1], strict=True):
        export_photos(right / label.replace(" ", "_"), f"a {label}", 4, seed=0)
        export_photos(wrong / label.replace(" ", "_"), f"a {other}", 4, seed=0)
    generated.mkdir()
    rows = []
    for number, (left, other) in enumerate(itertools.permutations(labels, 2)):
        scene = Scene((EMBLEMS[left], EMBLEMS[other]), "white")
        name = f"{number}.png"
        Image.fromarray(render(scene, np.random.default_rng(number))).save(generated / name)
        rows.append(
            {
                "file_name": name,
                "text": caption(scene),
                "concepts": [left, other],
                "background": "a circle on a white background",
            }
        )
    (generated / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    seen = multi(generated, right, margin=0.25, settings=settings)
    swapped = multi(generated, wrong, margin=0.25, settings=settings)
    assert len(rows) == 12
    assert seen["detected"].value >= 0.9
    assert seen["cp_clip"].value > swapped["cp_clip"].value + 0.1
    assert seen["cp_clip_matched"].value > swapped["cp_clip_matched"].value + 0.2
    assert seen["cp_clip_matched"].value > 0.9 * seen["cp_clip"].value
    assert seen["ti_clip"] == swapped["ti_clip"]
    assert seen.settings["crop_margin"] == 0.25
    assert seen.settings["detector"]["name"] == "emblem"
    assert len(seen.settings["detector"]["weights"]) == 64
