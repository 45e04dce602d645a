"""Weights of the view prompts: the values that the two implementations give."""

from __future__ import annotations

from math import e, exp
from typing import Any

import pytest

from guidance.perp_neg import PerpNeg
from guidance.view_weights import DREAMFUSION, THREESTUDIO, Decay, ViewLaw, view_weights


@pytest.mark.parametrize(
    ("azimuth", "blend", "front", "side"),
    [
        (0, {"front": 1, "side": 0}, 0.00012, 1.574),
        (90, {"side": 1, "back": 0}, 1.5735, 0.0005),
        (180, {"side": 0, "back": 1}, 1.967, 0.394),
        (45, {"front": 0.5, "side": 0.5}, 4 * exp(-0.25) - 2.426, 4 * exp(-0.25) - 2.426),
        (135, {"side": 0.5, "back": 0.5}, exp(-0.25) + 0.967, exp(-0.25) - 0.606),
    ],
)
def test_threestudio(azimuth: float, blend: dict[str, float], front: float, side: float) -> None:
    view = view_weights(azimuth)
    assert view.blend == pytest.approx(blend)
    assert view.weights == pytest.approx({"front": front, "side": side}, abs=6e-5)


@pytest.mark.parametrize(
    ("azimuth", "front", "side"),
    [
        (0, 0, 2),
        (45, 2 / e, 2 * exp(-5)),
        (90, 2, 0),
        (180, 2, 1),
        (17.9, 0, 2 * exp(-10 * 17.9 / 90)),
        (18.1, 2 * exp(-2 * (1 - 18.1 / 90)), 2 * exp(-10 * 18.1 / 90)),
        (72.1, 2 * exp(-2 * (1 - 72.1 / 90)), 0),
        (135, 2, exp(-5)),
    ],
)
def test_dreamfusion(azimuth: float, front: float, side: float) -> None:
    weights = view_weights(azimuth, law=DREAMFUSION).weights
    assert weights == pytest.approx({"front": front, "side": side})


@pytest.mark.parametrize("law", [THREESTUDIO, DREAMFUSION])
@pytest.mark.parametrize("azimuth", [10.0, 80.0, 130.0, 180.0])
def test_left_is_right_and_turns_do_not_count(azimuth: float, law: ViewLaw) -> None:
    view = view_weights(azimuth, law=law)
    for same in (-azimuth, azimuth + 720, azimuth - 360):
        other = view_weights(same, law=law)
        assert other.blend == pytest.approx(view.blend)
        assert other.weights == pytest.approx(view.weights)


def test_from_above_only_the_overhead_prompt_counts() -> None:
    assert view_weights(30, 61).blend == {"overhead": 1}
    assert view_weights(30, 61).weights == {}
    assert view_weights(30, 60) == view_weights(30, -20) == view_weights(30)
    assert view_weights(30, 90, DREAMFUSION) == view_weights(30, law=DREAMFUSION)


def test_weights_of_a_batch_of_cameras_fit_the_rule() -> None:
    views = [view_weights(azimuth) for azimuth in (0, 45, 180)]
    table = [tuple(view.weights[name] for view in views) for name in ("front", "side")]
    assert PerpNeg(("front view", "side view"), table).weights == tuple(table)


def test_own_law() -> None:
    flat = ViewLaw(Decay(1, 0), Decay(2, 0), Decay(3, 0), Decay(4, 0), overhead=10)
    assert view_weights(20, law=flat).weights == {"front": 1, "side": 2}
    assert view_weights(120, law=flat).weights == {"front": 3, "side": 4}
    assert view_weights(120, 11, flat).weights == {}


@pytest.mark.parametrize("angles", [(float("nan"),), (float("inf"),), (0, 91), (0, -91)])
def test_impossible_angles_raise(angles: Any) -> None:
    with pytest.raises(ValueError, match=r"view_weights: (azimuth|elevation) must be"):
        view_weights(*angles)
    with pytest.raises(TypeError, match="view_weights: azimuth"):
        view_weights("left")  # type: ignore[arg-type]
