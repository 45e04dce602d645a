"""Sets of prompts of the Emblem world, and fresh renders of what each of them may show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from torch import Tensor

from apps.claims.settings import EACH
from apps.emblem.pictures import to_tensor
from apps.emblem.render import render
from apps.emblem.world import (
    COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    Emblem,
    Scene,
    caption,
    drop_parts,
    parse,
    probability,
    sample_scene,
)

_VALUES = {"shape": SHAPES, "colour": COLOURS, "texture": TEXTURES, "size": SIZES}
"""Attributes in the order of ``Emblem``."""


@dataclass(frozen=True)
class Request:
    """What is asked for in a prompt, and what a negative prompt asks to leave out.

    Attributes:
        prompt: a caption, or nothing for an unconditional picture.
        negative: a caption that shares most of the prompt.
        avoided: attribute and value that the negative states and the prompt does not.
    """

    prompt: str
    negative: str = ""
    avoided: tuple[str, str] | None = None

    @property
    def goal(self) -> Scene | None:
        """What the prompt states; None for no prompt."""
        return parse(self.prompt) if self.prompt else None


def _pair(rng: np.random.Generator) -> Request:
    """Two emblems of the world, described as its captions do, not always in full."""
    return Request(caption(drop_parts(sample_scene(rng, count=2), rng)))


def _unsaid(rng: np.random.Generator) -> Request:
    """One emblem whose colour, or texture, is not stated and must not be the likeliest one."""
    name, value = (("colour", "red"), ("texture", "solid"))[int(rng.integers(2))]
    emblem = Emblem(None, None, None, None)
    while getattr(emblem, name) != value:
        scene = sample_scene(rng, count=1)
        (emblem,) = scene.emblems
    asked = replace(scene, emblems=(replace(emblem, **{name: None}),))
    return Request(caption(asked), caption(scene), (name, value))


def _conflict(rng: np.random.Generator) -> Request:
    """One emblem in full, and a negative that differs in the shape alone."""
    scene = sample_scene(rng, count=1)
    (emblem,) = scene.emblems
    shape = str(rng.choice([shape for shape in SHAPES if shape != emblem.shape]))
    other = replace(scene, emblems=(replace(emblem, shape=shape),))
    return Request(caption(scene), caption(other), ("shape", shape))


def _full(rng: np.random.Generator) -> Request:
    """One emblem in full, of a combination that training never saw."""
    return Request(caption(sample_scene(rng, held_out=True, count=1)))


def _untextured(rng: np.random.Generator) -> Request:
    """One emblem as the world's captions describe it, but for its texture."""
    scene = drop_parts(sample_scene(rng, count=1), rng)
    (emblem,) = scene.emblems
    return Request(caption(replace(scene, emblems=(replace(emblem, texture=None),))))


def _shape(rng: np.random.Generator) -> Request:
    """One emblem of which only the shape is told."""
    (emblem,) = sample_scene(rng, count=1).emblems
    return Request(caption(Scene((Emblem(emblem.shape, None, None, None),), None)))


SETS: dict[str, Callable[[np.random.Generator], Request]] = {
    "pairs": _pair,
    "unsaid": _unsaid,
    "conflict": _conflict,
    "full": _full,
    "untextured": _untextured,
    "shape": _shape,
    "empty": lambda rng: Request(""),
}


def draw_requests(name: str, images: int, seed: int) -> list[Request]:
    """The requests of a set for a number of images, ``EACH`` of them in a row the same."""
    rngs = (np.random.default_rng([seed, index]) for index in range(images // EACH))
    return [request for rng in rngs for request in [SETS[name](rng)] * EACH]


def possible_scenes(request: Request) -> list[Scene]:
    """Every scene of the world that shows what a prompt states and nothing that it avoids."""
    goal = parse(request.prompt)
    options = [
        (getattr(emblem, name),) if getattr(emblem, name) else values
        for emblem in goal.emblems
        for name, values in _VALUES.items()
    ]
    backgrounds = (goal.background,) if goal.background else COLOURS
    size = len(_VALUES)
    scenes = (
        Scene(tuple(Emblem(*chosen[i : i + size]) for i in range(0, len(chosen), size)), colour)
        for *chosen, colour in product(*options, backgrounds)
    )
    return [scene for scene in scenes if not leaks(scene, request)]


def likelihood(request: Request) -> float:
    """Share of the world's pictures that show what a prompt states."""
    return sum(map(probability, possible_scenes(request)))


def leaks(scene: Scene, request: Request) -> bool:
    """Whether any emblem shows what the request avoids."""
    if request.avoided is None:
        return False
    name, value = request.avoided
    return any(getattr(emblem, name) == value for emblem in scene.emblems)


def draw_truth(requests: Sequence[Request], count: int, seed: int) -> Tensor:
    """Fresh renders of what the requests may show, by the world's law given what they state.

    Args:
        requests: groups of ``EACH`` the same.
        count: renders of each group.
        seed: of the scenes and of their places and sizes.

    Returns:
        Pictures (groups * count, 3, 64, 64) in [-1, 1].
    """
    images = []
    for number, request in enumerate(requests[::EACH]):
        rng = np.random.default_rng([seed, number])
        if not request.prompt:
            scenes = [sample_scene(rng) for _ in range(count)]
        else:
            possible = possible_scenes(request)
            weights = np.array([probability(scene) for scene in possible])
            picked = rng.choice(len(possible), size=count, p=weights / weights.sum())
            scenes = [possible[index] for index in picked]
        images += [render(scene, rng) for scene in scenes]
    return to_tensor(np.stack(images))
