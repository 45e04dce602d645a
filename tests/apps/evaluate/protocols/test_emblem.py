"""The emblem protocol against the scorer of the world and numbers made by hand."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apps.emblem.pictures import to_tensor
from apps.emblem.score import ATTRIBUTES, Scorer
from apps.emblem.world import HELD_OUT_SHAPES, Emblem, Scene, parse, rarity
from apps.evaluate.protocols.emblem import diversity, emblem, read_values
from apps.evaluate.result import Result
from apps.evaluate.settings import EvaluateSettings
from apps.shipped import shipped
from tests.apps.emblem.test_score import RING, STAR, reading

BLUE = Emblem("star", "blue", "striped", "large")


@pytest.fixture(scope="module")
def singles(tmp_path_factory: pytest.TempPathFactory, emblems: Path) -> Path:
    """Pictures of one emblem with different captions."""
    folder = tmp_path_factory.mktemp("emblem") / "singles"
    folder.mkdir()
    lines = (emblems / "metadata.jsonl").read_text().splitlines()
    rows = {row["text"]: row for row in map(json.loads, lines)}
    for row in rows.values():
        if len(parse(row["text"]).emblems) == 1:
            shutil.copy(emblems / row["file_name"], folder)
            (folder / row["file_name"]).with_suffix(".txt").write_text(row["text"])
    return folder


def _write(folder: Path, texts: list[str]) -> Path:
    path = folder / "prompts.txt"
    path.write_text("\n".join(texts))
    return path


def _captions(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("*.txt"))]


def _pixels(folder: Path) -> torch.Tensor:
    return to_tensor(np.stack([np.array(Image.open(p)) for p in sorted(folder.glob("*.png"))]))


def _own(result: Result, metric: str) -> list[float | None]:
    assert result.images is not None
    found = dict(zip(result.images.names, result.images.values[metric], strict=True))
    return [found[name] for name in sorted(found)]


def test_the_truth_is_right_and_other_prompts_are_wrong(
    emblems: Path, tmp_path: Path, settings: EvaluateSettings
) -> None:
    right = emblem(emblems, settings=settings)
    assert right["accuracy"].value >= 0.95
    assert right["validity"].value == 1
    lines = (emblems / "metadata.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    rolled = emblem(emblems, _write(tmp_path, [*texts[1:], texts[0]]), settings)
    assert rolled["accuracy"].value <= 0.1
    assert rolled["validity"].value == 1
    assert rolled["accuracy_shape"].value < 0.5
    assert rolled["diversity_shape"] == right["diversity_shape"]


@pytest.mark.parametrize("shift", [0, 1])
def test_scores_are_those_of_the_scorer(
    singles: Path, tmp_path: Path, settings: EvaluateSettings, shift: int
) -> None:
    texts = _captions(singles)
    texts = texts[shift:] + texts[:shift]
    found = emblem(singles, _write(tmp_path, texts), settings)
    expected = Scorer.from_pretrained(shipped("emblem-classifier")).score(_pixels(singles), texts)
    assert found["accuracy"].value == pytest.approx(expected.prompt_accuracy)
    assert found["validity"].value == expected.validity
    assert found["rarity"].value == pytest.approx(expected.rarity)
    for name, share in expected.attribute_accuracy.items():
        assert found[f"accuracy_{name}"].value == pytest.approx(share), name
    for name, nats in expected.diversity.items():
        assert found[f"diversity_{name}"].value == pytest.approx(nats), name


def test_single_pictures_and_their_means(singles: Path, settings: EvaluateSettings) -> None:
    found = emblem(singles, settings=settings)
    texts = _captions(singles)
    for name in ("colour", "size"):
        stated = [getattr(parse(text).emblems[0], name) is not None for text in texts]
        own = _own(found, f"accuracy_{name}")
        assert [value is not None for value in own] == stated
        assert found[f"accuracy_{name}"].n == sum(stated) < len(texts)
    assert found.images is not None
    assert found.images.groups == found.images.texts
    assert found.settings["pictures"] == len(texts)
    assert len(found.settings["classifier"]["weights"]) == 64
    assert found["rarity"].better == "neither"


def test_every_prompt_counts_the_same(
    singles: Path, tmp_path: Path, settings: EvaluateSettings
) -> None:
    """A right picture and three wrong ones of two prompts: (1 + 0) / 2, not 1 / 4."""
    names = sorted(path.name for path in singles.glob("*.png"))[:4]
    for name in names:
        shutil.copy(singles / name, tmp_path)
    first = _captions(singles)[0]
    other = "a small ringed pink hourglass on a white background"
    found = emblem(tmp_path, _write(tmp_path, [first, other, other, other]), settings)
    assert (found["accuracy"].value, found["accuracy"].n) == (0.5, 4)


def test_rarity_is_that_of_what_is_seen() -> None:
    pair = Scene((STAR, RING), "green")
    unseen = Scene((Emblem(HELD_OUT_SHAPES[0], "red", "solid", "large"),), "blue")
    seen = reading(Scene((STAR,), "blue"), pair, unseen)
    values = read_values(seen, [Scene((STAR,), None), parse("a star"), parse("an arrow")])
    assert values["rarity"][:2].tolist() == [rarity(Scene((STAR,), "blue")), rarity(pair)]
    assert math.isnan(values["rarity"][2])
    assert values["accuracy"].tolist() == [1, 0, 1]
    hidden = read_values(reading(pair, told=False), [pair])
    assert (hidden["validity"].item(), hidden["accuracy"].item()) == (0, 0)
    assert math.isnan(hidden["rarity"].item())


def test_half_of_two_statements_is_a_half() -> None:
    asked = parse("a red star on the left and a red star on the right")
    values = read_values(reading(Scene((STAR, BLUE), "white")), [asked])
    assert values["accuracy_colour"].tolist() == [0.5]
    assert values["accuracy_shape"].tolist() == [1]
    assert values["accuracy_background"].isnan().all()


def test_diversity_is_the_entropy_of_the_left_emblem() -> None:
    scenes = (
        [Scene((STAR, RING), "green")] * 3 + [Scene((RING,), "white")] + [Scene((BLUE,), "red")]
    )
    found = {score.metric: score for score in diversity(reading(*scenes))}
    assert list(found) == [f"diversity_{name}" for name in ("background", *ATTRIBUTES)]

    def nats(*counts: int) -> float:
        return -sum(n / sum(counts) * math.log(n / sum(counts)) for n in counts)

    assert found["diversity_shape"].value == pytest.approx(nats(4, 1))
    assert found["diversity_colour"].value == pytest.approx(nats(3, 2))
    assert found["diversity_background"].value == pytest.approx(nats(3, 1, 1))
    assert found["diversity_style"].value == 0
    assert all(score.n == 5 for score in found.values())


def test_diversity_of_nothing_is_unknown() -> None:
    scores = diversity(reading(Scene((STAR,), "blue"), told=False))
    assert all(math.isnan(score.value) for score in scores)
    assert {(score.interval, score.n) for score in scores} == {(None, 0)}


def test_no_interval_of_diversity_is_a_point() -> None:
    shown = [Scene((STAR,), "blue"), Scene((RING,), "white")]
    for number in range(1, 50):
        for score in diversity(reading(*(shown * number)[:number])):
            assert score.interval is None or score.interval[1] - score.interval[0] > 1e-9
    uneven = diversity(reading(*[shown[row % 3 == 0] for row in range(50)]))
    assert Counter(score.interval is None for score in uneven) == {False: 5, True: 1}


def test_noise_is_not_valid(tmp_path: Path, settings: EvaluateSettings) -> None:
    for seed in range(4):
        noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{seed}.png")
    found = emblem(tmp_path, _write(tmp_path, ["a red star"] * 4), settings)
    assert (found["validity"].value, found["accuracy"].value) == (0, 0)
    assert math.isnan(found["rarity"].value)
    assert found["rarity"].n == 0
    found.write(tmp_path / "result.json")
    assert math.isnan(Result.read(tmp_path / "result.json")["diversity_shape"].value)


def test_pictures_of_other_sizes_are_refused(
    singles: Path, tmp_path: Path, settings: EvaluateSettings
) -> None:
    for path in sorted(singles.glob("*.png"))[:5]:
        with Image.open(path) as image:
            side = 64 if path.name < sorted(singles.glob("*.png"))[2].name else 32
            image.resize((side, 32)).save(tmp_path / path.name)
    with pytest.raises(ValueError, match="5 of 5 pictures are not 64 x 64 pixels, 3 of them 32 x"):
        emblem(tmp_path, _write(tmp_path, ["a red star"] * 5), settings)


@pytest.mark.parametrize("prompt", ["a red dog", "red", "a star on a grey background"])
def test_prompts_outside_the_world_are_refused(
    singles: Path, tmp_path: Path, settings: EvaluateSettings, prompt: str
) -> None:
    texts = [*_captions(singles)[1:], prompt]
    with pytest.raises(ValueError, match="expected") as error:
        emblem(singles, _write(tmp_path, texts), settings)
    assert "\n" not in str(error.value)
