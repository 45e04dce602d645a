"""Scores against hand-made readings."""

import math

import pytest
import torch

from apps.emblem import Emblem, Scene, parse, rarity
from apps.emblem.models import build_classifier
from apps.emblem.score import HEADS, Reading, Scorer, labels, split_heads, summarise

STAR = Emblem("star", "red", "striped", "large")
RING = Emblem("ring", "blue", "solid", "small")


def reading(*scenes: Scene, told: bool = True) -> Reading:
    """A reading that sees exactly these scenes."""
    probabilities = {
        head: torch.nn.functional.one_hot(
            torch.tensor([max(labels(scene)[index], 0) for scene in scenes]), len(values)
        ).double()
        for index, (head, values) in enumerate(HEADS.items())
    }
    if not told:
        probabilities["recognisable"] = probabilities["recognisable"].flip(1)
    return Reading(probabilities, torch.zeros(len(scenes), 2))


def test_a_reading_gives_its_scenes_back() -> None:
    scenes = [Scene((STAR,), "blue"), Scene((STAR, RING), "green")]
    assert reading(*scenes).scenes() == scenes


def test_only_what_the_prompt_states_counts() -> None:
    seen = reading(*[Scene((STAR,), "blue")] * 4)
    prompts = ["a star", "a red star on a blue background", "a small red star", "a dotted ring"]
    scores = summarise(seen, [parse(p) for p in prompts])
    assert scores.prompt_accuracy == 0.5
    assert scores.attribute_accuracy["shape"] == 0.75
    assert scores.attribute_accuracy["colour"] == 1.0
    assert scores.attribute_accuracy["size"] == 0.0
    assert scores.attribute_accuracy["texture"] == 0.0
    assert scores.validity == 1.0


def test_number_and_side_of_emblems_count() -> None:
    seen = reading(Scene((STAR, RING), "green"), Scene((STAR, RING), "green"))
    wanted = [parse("a star on the left and a ring on the right"), parse("a star")]
    assert summarise(seen, wanted).prompt_accuracy == 0.5
    swapped = [parse("a ring on the left and a star on the right")] * 2
    assert summarise(seen, swapped).prompt_accuracy == 0.0


def test_an_unrecognisable_picture_is_never_right() -> None:
    scores = summarise(reading(Scene((STAR,), "blue"), told=False), [parse("a star")])
    assert (scores.prompt_accuracy, scores.validity) == (0.0, 0.0)
    assert math.isnan(scores.rarity)


def test_rarity_and_diversity_have_their_closed_forms() -> None:
    scenes = [Scene((STAR,), "blue"), Scene((RING,), "green")]
    scores = summarise(reading(*scenes), [parse("a star"), parse("a ring")])
    assert scores.rarity == pytest.approx(sum(map(rarity, scenes)) / 2)
    assert scores.diversity["shape"] == pytest.approx(math.log(2))
    assert scores.diversity["style"] == pytest.approx(0)


def test_held_out_parts_do_not_make_rarity_infinite() -> None:
    arrow = Emblem("arrow", "red", "solid", "large")
    scores = summarise(
        reading(Scene((arrow,), "blue"), Scene((STAR,), "blue")),
        [parse("an arrow"), parse("a star")],
    )
    assert scores.rarity == pytest.approx(rarity(Scene((STAR,), "blue")))


def test_heads_split_the_labels_in_order() -> None:
    total = sum(map(len, HEADS.values()))
    parts = split_heads(torch.arange(total, dtype=torch.float32)[None])
    assert torch.equal(torch.cat(list(parts.values()), dim=1)[0], torch.arange(total).float())
    assert [p.shape[1] for p in parts.values()] == [len(v) for v in HEADS.values()]


def test_scorer_checks_what_it_is_given() -> None:
    torch.manual_seed(0)
    scorer = Scorer(build_classifier())
    with pytest.raises(ValueError, match=r"expected \(B, 3, 64, 64\)"):
        scorer.read(torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match="2 images and 1 prompts"):
        scorer.score(torch.zeros(2, 3, 64, 64), ["a star"])
    read = scorer.read(torch.randn(5, 3, 64, 64), batch=2)
    for values in read.probabilities.values():
        torch.testing.assert_close(values.sum(dim=1), torch.ones(5))
    assert read.features.shape == (5, 176)


def test_another_classifier_is_refused() -> None:
    classifier = build_classifier()
    classifier.config.id2label = {i: str(i) for i in range(classifier.config.num_labels)}
    with pytest.raises(ValueError, match="labels that are not those of this world"):
        Scorer(classifier)
