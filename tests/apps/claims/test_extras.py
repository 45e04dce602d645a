"""Extra measures of constructed readings."""

import math

import pytest
import torch

from apps.claims.estimates import MEASURES
from apps.claims.extras import EXTRAS, MORE, extra_values
from apps.claims.requests import Request, draw_truth
from apps.claims.store import Measured
from apps.emblem import Emblem, Scene
from apps.emblem.world import rarity
from apps.hunt.objectives import load_objective
from tests.apps.emblem.test_score import reading

COMMON = Scene((Emblem("circle", "red", "solid", "large"),), "blue")
RARE = Scene((Emblem("crescent", "pink", "checkered", "small"),), "orange")
PAIR = Scene((*COMMON.emblems, *COMMON.emblems), "blue")
NEVER = Scene((Emblem("arrow", "red", "solid", "large"),), "blue")

NOTHING = Measured({}, 0.0, 0.0, torch.zeros(0), torch.zeros(0), {})


def test_rarity_and_its_shares_are_of_recognised_scenes() -> None:
    names = ("rarity", "rare", "rare_of_number", "double", "unknown")
    seen = reading(COMMON, RARE, PAIR, NEVER)
    values = extra_values(names, NOTHING, seen, [Request("")] * 4)
    assert tuple(values) == names
    assert values["rarity"][:3].tolist() == pytest.approx(
        [rarity(scene) for scene in (COMMON, RARE, PAIR)]
    )
    assert math.isnan(values["rarity"][3])
    assert values["rare"].tolist() == [0, 0, 0, 0]
    assert values["rare_of_number"].tolist() == [0, 1, 0, 0]
    assert values["double"].tolist() == [0, 0, 1, 0]
    assert values["unknown"].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("name", ["rarity", "rare", "rare_of_number", "double", "unknown"])
def test_pictures_that_show_nothing_do_not_count(name: str) -> None:
    values = extra_values([name], NOTHING, reading(RARE, told=False), [Request("")])
    assert math.isnan(values[name].item())


def test_objectives_are_those_of_the_search() -> None:
    requests = [Request("a striped star")] * 2
    pixels = draw_truth(requests, 2, seed=0)
    images = pixels.add(1).mul(127.5).round().byte()
    measured = Measured({}, 0.0, 0.0, images, torch.zeros(0), {})
    found = extra_values(["quality", "striped", "outlined"], measured, reading(COMMON), requests)
    assert (found["striped"] > 0.9).all()
    assert (found["outlined"] < 0.1).all()
    from PIL import Image

    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    expected = load_objective("clip")(pictures, [request.prompt for request in requests])
    torch.testing.assert_close(found["quality"], expected)


def test_every_extra_is_told_in_words_and_is_no_usual_measure() -> None:
    assert EXTRAS.keys() <= MORE.keys()
    assert not MORE.keys() & MEASURES.keys()
