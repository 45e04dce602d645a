"""How rare scenes are by the world's law, exactly: every scene is counted."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np

from apps.emblem.world import COLOURS, MARGINALS, TWO_EMBLEMS, Scene, probability

SHARE = 0.1
"""Of all pictures, or of those with as many emblems, those of the least likely combinations."""

_ATTRIBUTES = ("shape", "colour", "texture", "size")


@lru_cache
def threshold(emblems: int | None = None) -> float:
    """Probability below which combinations make up ``SHARE`` of the world's pictures.

    Of those with so many emblems, where the number is given, and their probability given it.

    Equals count together: where they would exceed the share, all of them are above.
    """
    if emblems is None:
        parts = [(1 - TWO_EMBLEMS) * _probabilities(1), TWO_EMBLEMS * _probabilities(2)]
        p = np.sort(np.concatenate(parts))
    else:
        p = np.sort(_probabilities(emblems))
    p = p[p > 0]
    ends = np.flatnonzero(np.diff(p) > 1e-9 * p[1:])  # the last of each run of equals
    held = np.cumsum(p)[ends] / p.sum() <= SHARE
    last = ends[held][-1]
    return float((p[last] + p[last + 1]) / 2)


def is_rare(scene: Scene) -> bool:
    """Whether the world shows this scene, but hardly ever."""
    return 0 < probability(scene) < threshold()


def is_rare_of_its_number(scene: Scene) -> bool:
    """Whether the world shows this scene, but hardly ever among those with as many emblems."""
    emblems = len(scene.emblems)
    given = probability(scene) / (TWO_EMBLEMS if emblems == 2 else 1 - TWO_EMBLEMS)
    return 0 < given < threshold(emblems)


def _probabilities(emblems: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Of every scene with so many emblems, given their number."""
    laws = [MARGINALS[name] for name in _ATTRIBUTES]
    one = np.array([np.prod(values) for values in product(*(law.values() for law in laws))])
    colours = np.array([COLOURS.index(values[1]) for values in product(*laws)])
    background = np.array([MARGINALS["background"][colour] for colour in COLOURS])
    p, free = np.ones(1), np.ones((1, len(COLOURS)), dtype=bool)
    for _ in range(emblems):
        p = np.outer(p, one).ravel()
        free = (free[:, None] & (colours[:, None] != np.arange(len(COLOURS)))[None]).reshape(
            len(p), -1
        )
    law = free * background
    return (p[:, None] * law / law.sum(1, keepdims=True)).ravel()
