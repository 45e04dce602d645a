"""Which scenes are rare, against enumeration with the world's own probabilities."""

from itertools import product

import numpy as np
import pytest

from apps.claims.rarity import SHARE, is_rare, is_rare_of_its_number, threshold
from apps.emblem.world import COLOURS, MARGINALS, Emblem, Scene, probability, sample_scene


def _scenes() -> list[Scene]:
    parts = (MARGINALS[name] for name in ("shape", "colour", "texture", "size"))
    emblems = [Emblem(*values) for values in product(*parts)]
    return [Scene((emblem,), colour) for emblem in emblems for colour in COLOURS]


def test_the_rare_scenes_of_one_emblem_are_the_least_likely_tenth() -> None:
    scenes = [scene for scene in _scenes() if probability(scene)]
    total = sum(map(probability, scenes))
    assert total == pytest.approx(0.8)
    rare = [scene for scene in scenes if is_rare_of_its_number(scene)]
    others = [scene for scene in scenes if not is_rare_of_its_number(scene)]
    assert max(map(probability, rare)) < min(map(probability, others))
    share = sum(map(probability, rare)) / total
    assert share <= SHARE
    more = min(map(probability, others))
    beyond = sum(p for p in map(probability, others) if p < more * (1 + 1e-6))
    assert share + beyond / total > SHARE


def test_a_tenth_of_the_pairs_of_the_world_is_rare_of_its_number() -> None:
    drawn = [sample_scene(np.random.default_rng(seed), count=2) for seed in range(2000)]
    assert sum(map(is_rare_of_its_number, drawn)) / len(drawn) == pytest.approx(SHARE, abs=0.02)
    assert threshold(2) < threshold(1)


def test_what_the_world_never_shows_is_not_rare() -> None:
    assert not is_rare_of_its_number(Scene((Emblem("arrow", "red", "solid", "large"),), "blue"))
    assert not is_rare_of_its_number(
        Scene((Emblem("crescent", "pink", "checkered", "small"),), "pink")
    )
    assert is_rare_of_its_number(
        Scene((Emblem("crescent", "pink", "checkered", "small"),), "orange")
    )
    assert not is_rare(Scene((Emblem("arrow", "red", "solid", "large"),), "blue"))


def test_a_tenth_of_the_world_is_rare_and_most_of_it_are_pairs() -> None:
    drawn = [sample_scene(np.random.default_rng(seed)) for seed in range(2000)]
    rare = [scene for scene in drawn if is_rare(scene)]
    assert len(rare) / len(drawn) == pytest.approx(SHARE, abs=0.02)
    assert sum(len(scene.emblems) == 2 for scene in rare) > 0.9 * len(rare)
    others = [probability(scene) for scene in drawn if not is_rare(scene)]
    assert max(map(probability, rare)) < min(others)
