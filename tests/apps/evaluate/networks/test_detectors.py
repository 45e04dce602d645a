"""Detectors: OWL-ViT with known boxes, Emblem against the renderer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import (
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessorPil,
    OwlViTProcessor,
)

from apps.emblem.render import PALETTE, render
from apps.emblem.score import Scorer
from apps.emblem.world import COLOURS, Emblem, Scene, caption, sample_scene
from apps.evaluate.networks.detectors import Detector, load_detector
from apps.evaluate.networks.emblem_detector import places
from apps.evaluate.networks.pretrained import weights_hash
from tests import tiny
from tests.apps.emblem.test_score import reading

GRID = 4
STAR = Emblem("star", "red", "solid", "small")
RING = Emblem("ring", "green", "striped", "large")


@pytest.fixture(scope="module")
def owlvit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny OWL-ViT whose boxes are its grid: 4 x 4, each a quarter wide."""
    torch.manual_seed(0)
    words = tiny.tokenizer()
    width: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    text = width | ids | {"vocab_size": len(words), "max_position_embeddings": 16}
    vision = width | {"image_size": 32, "patch_size": 32 // GRID}
    model = OwlViTForObjectDetection(
        OwlViTConfig(text_config=text, vision_config=vision, projection_dim=32)
    )
    torch.nn.init.zeros_(model.class_head.logit_shift.weight)
    torch.nn.init.ones_(model.class_head.logit_shift.bias)  # every score is above a half
    torch.nn.init.zeros_(model.box_head.dense2.weight)
    torch.nn.init.zeros_(model.box_head.dense2.bias)
    folder = tmp_path_factory.mktemp("owlvit")
    model.save_pretrained(folder)
    images = OwlViTImageProcessorPil(size={"height": 32, "width": 32})
    OwlViTProcessor(images, words).save_pretrained(folder)
    return folder


def _with_bias(owlvit: Path, to: Path, layer: str, bias: list[float]) -> Path:
    """A copy of the model with another bias in one layer."""
    model = OwlViTForObjectDetection.from_pretrained(owlvit)
    with torch.no_grad():
        model.get_submodule(layer).bias.copy_(torch.tensor(bias))
    model.save_pretrained(to)
    OwlViTProcessor.from_pretrained(owlvit).save_pretrained(to)
    return to


def test_owlvit_boxes_are_in_pixels_of_the_picture_and_clipped_to_it(owlvit: Path) -> None:
    detector = load_detector(f"owlvit:{owlvit}")
    noise = np.random.default_rng(0).integers(0, 256, (40, 100, 3), dtype=np.uint8)
    boxes = detector.detect(Image.fromarray(noise), ["red star", "dog", "x"])
    assert len(boxes) == GRID**2
    for number, box in enumerate(boxes):
        x, y = 25 * (1 + number % GRID), 10 * (1 + number // GRID)
        expected = (x - 12.5, y - 5, min(x + 12.5, 100), min(y + 5, 40))
        assert box.xyxy == pytest.approx(expected, abs=0.05)


def test_owlvit_scores_and_labels_are_the_best_of_plain_transformers(owlvit: Path) -> None:
    detector = load_detector(f"owlvit:{owlvit}")
    noise = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    labels = ["red star", "dog", "x"]
    pixels = torch.from_numpy(noise).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(detector.describe()[key]).view(3, 1, 1) for key in ("mean", "std"))
    ids = tiny.tokenizer()(labels, padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        output = OwlViTForObjectDetection.from_pretrained(owlvit)(
            pixel_values=(pixels - mean) / std, **ids
        )
    scores, numbers = output.logits[0].sigmoid().max(dim=1)
    boxes = detector.detect(Image.fromarray(noise), labels)
    assert [box.label for box in boxes] == [labels[number] for number in numbers.tolist()]
    assert [box.score for box in boxes] == pytest.approx(scores.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("layer", "bias"),
    [("class_head.logit_shift", [-40.0]), ("box_head.dense2", [0.0, 0.0, 0.0, -200.0])],
    ids=["low score", "no height"],
)
def test_owlvit_drops_low_scores_and_empty_boxes(
    owlvit: Path, tmp_path: Path, layer: str, bias: list[float]
) -> None:
    detector = load_detector(f"owlvit:{_with_bias(owlvit, tmp_path, layer, bias)}")
    assert detector.detect(Image.new("L", (30, 20)), ["dog"]) == []


def test_owlvit_says_what_it_is(owlvit: Path) -> None:
    about = load_detector(f"owlvit:{owlvit}").describe()
    assert about == json.loads(json.dumps(about))
    assert about["name"] == f"owlvit:{owlvit.name}"
    assert about["weights"] == weights_hash(OwlViTForObjectDetection.from_pretrained(owlvit))
    assert (about["threshold"], about["resampling"]) == (0.1, "bicubic")
    assert about["size"] == {"height": 32, "width": 32}


def test_a_label_that_is_too_long_is_refused(owlvit: Path) -> None:
    detector = load_detector(f"owlvit:{owlvit}")
    with pytest.raises(ValueError, match="has 32 tokens; this detector reads up to 16"):
        detector.detect(Image.new("RGB", (32, 32)), ["dog", "d" * 30])


@pytest.mark.parametrize("name", ["emblem", "owlvit"])
@pytest.mark.parametrize("labels", [[], "dog"])
def test_labels_are_a_list(owlvit: Path, name: str, labels: Sequence[str]) -> None:
    detector = load_detector("emblem" if name == "emblem" else f"owlvit:{owlvit}")
    with pytest.raises(ValueError, match="expected a list of one or more texts"):
        detector.detect(Image.new("RGB", (64, 64)), labels)


def test_what_cannot_be_loaded_is_one_line(owlvit: Path, tmp_path: Path) -> None:
    headless = tmp_path / "headless"
    OwlViTForObjectDetection.from_pretrained(owlvit).owlvit.save_pretrained(headless)
    other = tmp_path / "other"
    tiny.sd().text_encoder.save_pretrained(other)
    for name, words in [
        ("yolo", "no detector 'yolo' .expected one of emblem, owlvit:ID_OR_PATH"),
        ("owlvit", "no detector 'owlvit'"),
        (f"owlvit:{tmp_path}", "cannot load model"),
        (f"owlvit:{other}", "is of type 'clip_text_model'; expected owlvit"),
        (f"owlvit:{headless}", "lacks .* weights, .* saved as a OwlViTForObjectDetection"),
    ]:
        with pytest.raises(ValueError, match=words) as error:
            load_detector(name)
        assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def emblem() -> Detector:
    return load_detector("emblem")


def _covered(scene: Scene, slot: int, seed: int) -> NDArray[np.bool_]:
    """Pixels (64, 64) of which one emblem covers half, the others painted over."""
    assert scene.background is not None
    ink = next(name for name in COLOURS if name != scene.background)
    emblems = tuple(
        replace(emblem, colour=ink if number == slot else scene.background, texture="solid")
        for number, emblem in enumerate(scene.emblems)
    )
    alone = render(Scene(emblems, scene.background), np.random.default_rng(seed)).astype(float)
    ground, full = (np.array(PALETTE[name], dtype=float) for name in (scene.background, ink))
    return (alone - ground) @ (full - ground) >= 0.5 * (full - ground) @ (full - ground)


def _tight(covered: NDArray[np.bool_]) -> tuple[int, ...]:
    image = Image.fromarray(covered)
    found = image.getbbox()
    assert found is not None
    return found


def _overlap(box: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union."""
    sides = [min(box[i + 2], other[i + 2]) - max(box[i], other[i]) for i in (0, 1)]
    common = max(sides[0], 0) * max(sides[1], 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return common / (sum(areas) - common)


def _picture(scene: Scene, seed: int) -> Image.Image:
    return Image.fromarray(render(scene, np.random.default_rng(seed)))


@pytest.mark.parametrize("count", [1, 2])
def test_emblems_are_found_where_they_are_and_nothing_else_is(emblem: Detector, count: int) -> None:
    found = wrong = truths = 0
    overlaps = []
    for seed in range(40):
        rng = np.random.default_rng([7, seed])
        scene = sample_scene(rng, count=count)
        other = sample_scene(rng, count=1).emblems[0]
        there = [caption(Scene((one,), None)) for one in scene.emblems]
        absent = caption(Scene((other,), None))
        boxes = emblem.detect(_picture(scene, seed), [*there, absent])
        wrong += absent not in there and any(box.label == absent for box in boxes)
        for slot, label in enumerate(there):
            truth = _tight(_covered(scene, slot, seed))
            best = [_overlap(box.xyxy, truth) for box in boxes if box.label == label]
            truths += 1
            found += any(overlap > 0.5 for overlap in best)
            overlaps.append(max(best, default=0.0))
    assert wrong == 0
    assert found / truths >= 0.97
    assert np.mean(overlaps) > 0.9


def test_only_what_a_label_states_counts(emblem: Detector) -> None:
    picture = _picture(Scene((STAR, RING), "white"), 0)
    labels = ["star", "a red star", "Small Red Star", "blue star", "embossed star", "large ring"]
    boxes = emblem.detect(picture, labels)
    assert [box.label for box in boxes] == ["star", "a red star", "Small Red Star", "large ring"]
    assert all(box.score > 0.9 for box in boxes)
    left, right = boxes[0].xyxy, boxes[3].xyxy
    assert left[2] <= right[0]


def test_two_that_fit_one_label_are_two_boxes(emblem: Detector) -> None:
    twin = replace(STAR, colour="blue")
    boxes = emblem.detect(_picture(Scene((STAR, twin), "white"), 3), ["solid star", "blue star"])
    assert [box.label for box in boxes] == ["solid star", "solid star", "blue star"]
    assert boxes[0].xyxy[2] <= boxes[1].xyxy[0]
    assert boxes[2].xyxy == boxes[1].xyxy


def test_a_style_counts_where_it_is_stated(emblem: Detector) -> None:
    picture = _picture(Scene((replace(RING, style="outlined"),), "white"), 1)
    labels = ["ring", "outlined ring", "embossed ring"]
    assert [box.label for box in emblem.detect(picture, labels)] == ["ring", "outlined ring"]


def test_noise_and_an_empty_picture_have_no_boxes(emblem: Detector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for picture in (Image.fromarray(noise), Image.new("RGB", (64, 64), "red")):
        labels = [*(f"{colour} star" for colour in COLOURS), "circle"]
        assert emblem.detect(picture, labels) == []


def test_a_score_is_the_product_of_what_is_stated(
    emblem: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    certain = reading(Scene((STAR, RING), "white"))
    said = {"recognisable": 0.99, "count": 0.98, "second.shape": 0.97, "second.colour": 0.96}
    for head, p in said.items():
        certain.probabilities[head] *= p
    monkeypatch.setattr(Scorer, "read", lambda *_: certain)
    picture = _picture(Scene((STAR, RING), "white"), 0)
    red, ring, green = emblem.detect(picture, ["red star", "ring", "green ring"])
    assert red.score == pytest.approx(0.99 * 0.98)
    assert ring.score == pytest.approx(0.99 * 0.98 * 0.97)
    assert green.score == pytest.approx(0.99 * 0.98 * 0.97 * 0.96)


def test_places_are_tight_around_what_differs_from_the_border() -> None:
    pixels = np.full((64, 64, 3), 200, dtype=np.uint8)
    pixels[10:20, 5:27, 1] = 100
    assert places(pixels, 1) == [(5, 10, 27, 20)]
    assert places(pixels, 2) == [(5, 10, 27, 20), None]
    pixels[40:60, 28:64, 0] = 0
    pixels[63, :, :] = 170
    assert places(pixels, 1) == [(5, 10, 64, 60)]
    assert places(pixels, 2) == [(5, 10, 27, 20), (28, 40, 64, 60)]


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("red dog", "in words of the world"),
        ("red", "names no shape"),
        ("a red star on a blue background", "expected one emblem without a background"),
        ("a star on the left and a ring on the right", "expected one emblem"),
    ],
)
def test_a_label_that_is_no_emblem_is_refused(emblem: Detector, label: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        emblem.detect(_picture(Scene((STAR,), "white"), 0), [label])


def test_a_picture_of_another_size_is_refused(emblem: Detector) -> None:
    with pytest.raises(ValueError, match="picture is 128 x 64 pixels; the emblem detector reads"):
        emblem.detect(Image.new("RGB", (128, 64)), ["star"])


def test_the_emblem_detector_says_what_it_is(emblem: Detector) -> None:
    about = emblem.describe()
    assert about == json.loads(json.dumps(about))
    assert (about["name"], len(about["weights"])) == (emblem.name, 64)
