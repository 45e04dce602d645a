"""Prompts are captions of the world, and their renders follow its law."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from apps.claims.requests import SETS, Request, draw_requests, draw_truth, possible_scenes
from apps.emblem import parse
from apps.emblem.world import COLOURS, probability, sample_scene


@pytest.mark.parametrize("name", SETS)
def test_requests_are_the_same_for_the_same_seed_and_come_in_pairs(name: str) -> None:
    requests = draw_requests(name, 12, seed=3)
    assert requests == draw_requests(name, 12, seed=3)
    assert requests[::2] == requests[1::2]
    assert requests[:6] == draw_requests(name, 6, seed=3)


@pytest.mark.parametrize("name", ["unsaid", "conflict"])
def test_a_negative_differs_from_its_prompt_in_what_is_avoided_alone(name: str) -> None:
    for request in draw_requests(name, 40, seed=0):
        assert request.avoided is not None
        attribute, value = request.avoided
        asked, negative = parse(request.prompt), parse(request.negative)
        (emblem,), (other,) = asked.emblems, negative.emblems
        assert getattr(other, attribute) == value != getattr(emblem, attribute)
        same = replace(other, **{attribute: getattr(emblem, attribute)})
        assert (same, asked.background) == (emblem, negative.background)
        if name == "unsaid":
            assert getattr(emblem, attribute) is None


def test_possible_scenes_show_what_is_stated_and_not_what_is_avoided() -> None:
    request = Request("a striped star", "a red striped star", ("colour", "red"))
    scenes = possible_scenes(request)
    assert len(scenes) == 7 * 2 * 8  # colours but red, sizes, backgrounds
    for scene in scenes:
        (emblem,) = scene.emblems
        assert (emblem.shape, emblem.texture) == ("star", "striped")
        assert emblem.colour != "red"


def test_possible_scenes_with_their_probabilities_are_the_law_given_the_prompt() -> None:
    scenes = possible_scenes(Request("a star on a red background"))
    weights = np.array([probability(scene) for scene in scenes])
    law = Counter[str | None]()
    for scene, weight in zip(scenes, weights / weights.sum(), strict=True):
        law[scene.emblems[0].colour] += weight
    drawn = (sample_scene(np.random.default_rng(seed), count=1) for seed in range(4000))
    found = Counter(scene.emblems[0].colour for scene in drawn if scene.background == "red")
    assert found.total() > 500
    for colour in COLOURS:
        assert found[colour] / found.total() == pytest.approx(law[colour], abs=0.05)


def test_truth_is_drawn_for_each_request_alone() -> None:
    one, other = Request("a red star"), Request("a blue ring")
    together = draw_truth([one, one, other, other], 3, seed=5)
    assert together.shape == (6, 3, 64, 64)
    assert torch.equal(together[:3], draw_truth([one, one], 3, seed=5))
