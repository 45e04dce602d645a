"""The world's law, captions and parser against closed forms."""

import math
from itertools import product

import numpy as np
import pytest

from apps.emblem import Emblem, Scene, caption, parse, probability, rarity, sample_scene
from apps.emblem.world import (
    ALL_SHAPES,
    ALL_TEXTURES,
    COLOURS,
    EXPONENTS,
    HELD_OUT_SHAPES,
    HELD_OUT_TEXTURES,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    TWO_EMBLEMS,
    drop_parts,
    is_held_out,
    sample_any,
)


def singles() -> list[Scene]:
    combinations = product(SHAPES, COLOURS, TEXTURES, SIZES, COLOURS)
    return [Scene((Emblem(s, c, t, z),), b) for s, c, t, z, b in combinations]


def test_single_scenes_have_the_whole_probability_of_one_emblem() -> None:
    assert sum(map(probability, singles())) == pytest.approx(1 - TWO_EMBLEMS, abs=1e-12)


def test_probability_is_the_product_of_rank_power_laws() -> None:
    scene = Scene((Emblem("star", "blue", "dotted", "small"),), "red")

    def law(rank: int, count: int, exponent: float) -> float:
        return rank**-exponent / sum(k**-exponent for k in range(1, count + 1))

    backgrounds = [law(k, 8, EXPONENTS["background"]) for k in range(1, 9)]
    expected = (
        (1 - TWO_EMBLEMS)
        * law(2, 8, EXPONENTS["shape"])
        * law(2, 8, EXPONENTS["colour"])
        * law(3, 4, EXPONENTS["texture"])
        * law(2, 2, EXPONENTS["size"])
        * backgrounds[0]
        / (1 - backgrounds[1])
    )
    assert probability(scene) == pytest.approx(expected, rel=1e-12)
    assert rarity(scene) == pytest.approx(-math.log(expected), rel=1e-12)


def test_frequencies_follow_the_law() -> None:
    rng = np.random.default_rng(0)
    shapes = [sample_scene(rng, count=1).emblems[0].shape for _ in range(4000)]
    for rank, shape in enumerate(SHAPES, 1):
        p = rank ** -EXPONENTS["shape"] / sum(k ** -EXPONENTS["shape"] for k in range(1, 9))
        assert shapes.count(shape) / 4000 == pytest.approx(p, abs=4 * math.sqrt(p / 4000))


@pytest.mark.parametrize(
    "shown", [{"shape": "arrow"}, {"texture": "ringed"}, {"style": "embossed"}]
)
def test_held_out_parts_are_impossible(shown: dict[str, str]) -> None:
    emblem = Emblem(
        **{"shape": "star", "colour": "red", "texture": "solid", "size": "large"} | shown
    )
    assert probability(Scene((emblem,), "blue")) == 0
    assert rarity(Scene((emblem,), "blue")) == math.inf


def test_background_never_has_the_colour_of_an_emblem() -> None:
    assert probability(Scene((Emblem("star", "red", "solid", "large"),), "red")) == 0
    for index in range(300):
        rng = np.random.default_rng(index)
        for scene in (sample_scene(rng), sample_any(rng)):
            assert scene.background not in {emblem.colour for emblem in scene.emblems}


def test_held_out_combinations_are_about_a_tenth_and_split_the_samples() -> None:
    combinations = [Emblem(s, c, t, z) for s, c, t, z in product(SHAPES, COLOURS, TEXTURES, SIZES)]
    assert 0.07 < sum(map(is_held_out, combinations)) / len(combinations) < 0.13
    rng = np.random.default_rng(1)
    for _ in range(200):
        assert all(is_held_out(e) for e in sample_scene(rng, held_out=True).emblems)
        assert not any(is_held_out(e) for e in sample_scene(rng, held_out=False).emblems)


def test_enough_is_held_out() -> None:
    assert len(HELD_OUT_SHAPES) >= 4 and not set(HELD_OUT_SHAPES) & set(SHAPES)
    assert len(HELD_OUT_TEXTURES) >= 2 and not set(HELD_OUT_TEXTURES) & set(TEXTURES)
    assert len(STYLES) == 3


def test_captions_read_as_english() -> None:
    star = Emblem("star", "red", "striped", "large")
    bare = Emblem("star", None, None, None)
    ring = Emblem("ring", "blue", None, None)
    arrow = Emblem("arrow", "orange", None, None)
    assert caption(Scene((star,), "blue")) == "a large striped red star on a blue background"
    assert caption(Scene((bare, ring), None)) == "a star on the left and a blue ring on the right"
    assert caption(Scene((arrow,), "orange")) == "an orange arrow on an orange background"


def test_parse_inverts_caption() -> None:
    for index in range(500):
        rng = np.random.default_rng(index)
        scene = sample_any(rng)
        assert parse(caption(scene)) == scene
        partial = drop_parts(scene, rng)
        assert parse(caption(partial)) == partial


def test_dropped_parts_never_change_what_is_stated() -> None:
    for index in range(300):
        rng = np.random.default_rng(index)
        scene = sample_scene(rng)
        partial = drop_parts(scene, rng)
        for emblem, kept in zip(scene.emblems, partial.emblems, strict=True):
            assert kept.shape == emblem.shape
            assert all(v in (None, getattr(emblem, k)) for k, v in vars(kept).items())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a red", "names no shape"),
        ("a red blue star", "expected the form"),
        ("a dog on a mat", "expected the form"),
        ("a star on a mauve background", "background is 'mauve'"),
        ("", "expected the form"),
    ],
)
def test_other_text_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(text)


def test_vocabulary_is_large_enough() -> None:
    assert len(ALL_SHAPES) >= 12 and len(COLOURS) >= 8 and len(ALL_TEXTURES) >= 6
