"""Weights of the view prompts with which Perp-Neg keeps a 3-D object from growing several faces.

"Re-imagine the Negative Prompt Algorithm: Transform 2D Diffusion into 3D, alleviate Janus problem
and Beyond", Mohammadreza Armandpour et al., 2023, arXiv 2304.04968; constants of threestudio
(``models/prompt_processors/base.py``) and of stable-dreamfusion (``nerf/utils.py``).

The main prompt of a camera is the blend of the two nearest views, ``r`` of the one nearer to the
front; ``PerpNeg`` gets the pure views as negatives, with weights ``a exp(-b x) + c`` where x is r,
or for the side seen from the front ``1 - r``. Left and right are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf

from guidance.core.schedule import check_number


@dataclass(frozen=True)
class Decay:
    """``a exp(-b x) + c`` for x up to ``end``, 0 after it."""

    a: float
    b: float
    c: float = 0.0
    end: float = inf

    def __call__(self, x: float) -> float:
        return self.a * exp(-self.b * x) + self.c if x <= self.end else 0.0


@dataclass(frozen=True)
class ViewLaw:
    """Weights of the front and the side prompt for a camera in front of and behind the object.

    Attributes:
        front, side: up to 90 degrees from the front, of the share of that view in the blend.
        front_behind, side_behind: beyond, of the share of the side view.
        overhead: elevation in degrees above which the overhead prompt stands alone.
    """

    front: Decay
    side: Decay
    front_behind: Decay
    side_behind: Decay
    overhead: float = inf


THREESTUDIO = ViewLaw(
    front=Decay(4, 0.5, -2.426),
    side=Decay(4, 0.5, -2.426),
    front_behind=Decay(1, 0.5, 0.967),
    side_behind=Decay(1, 0.5, -0.606),
    overhead=60,
)

DREAMFUSION = ViewLaw(
    front=Decay(2, 2, end=0.8),
    side=Decay(2, 10, end=0.8),
    front_behind=Decay(2, 0),
    side_behind=Decay(1, 10, end=0.8),
)


@dataclass(frozen=True)
class View:
    """Prompts of one camera, by the names front, side, back and overhead.

    Attributes:
        blend: share of each view in the embedding of the main prompt; they sum to 1.
        weights: weight of each view as a negative.
    """

    blend: dict[str, float]
    weights: dict[str, float]


def view_weights(azimuth: float, elevation: float = 0.0, law: ViewLaw = THREESTUDIO) -> View:
    """Blend of the main prompt and weights of the negatives for a camera.

    Args:
        azimuth: degrees from the front of the object, any turn and sign.
        elevation: degrees above the horizon, -90 to 90.
        law: ``THREESTUDIO``, ``DREAMFUSION`` or one of your own.

    Raises:
        TypeError, ValueError: an angle is no finite number or out of range.
    """
    turned = check_number("view_weights", "azimuth", azimuth, -inf)
    if check_number("view_weights", "elevation", elevation, -90, 90) > law.overhead:
        return View({"overhead": 1.0}, {})
    away = abs((turned + 180) % 360 - 180)
    if away < 90:
        r = 1 - away / 90
        return View({"front": r, "side": 1 - r}, {"front": law.front(r), "side": law.side(1 - r)})
    r = 2 - away / 90
    weights = {"front": law.front_behind(r), "side": law.side_behind(r)}
    return View({"side": r, "back": 1 - r}, weights)
