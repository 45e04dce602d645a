"""Personal concepts of the Emblem world, and what is asked for with their words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from apps.emblem.data import parse_emblem
from apps.emblem.score import Reading, shown, stated
from apps.emblem.world import COLOURS, SIZES, TEXTURES, Emblem, Scene, caption

LEARNED = ("shape", "colour", "texture")
"""What is the same in all photos of a concept."""


@dataclass(frozen=True)
class Concept:
    """An emblem with something that the model never saw.

    Attributes:
        word: its placeholder.
        phrase: what the photos show; a part of it is held out of the model's world.
        super_category: the nearest word of the model's world.
        held_out: the attribute that is held out.
    """

    word: str
    phrase: str
    super_category: str
    held_out: str

    @property
    def emblem(self) -> Emblem:
        """The concept with its size open."""
        return replace(parse_emblem(self.phrase), style="plain")

    @property
    def plain(self) -> str:
        """The concept in words of the model's world, as far as they go."""
        known = replace(self.emblem, shape=self.super_category)
        texture = None if self.held_out == "texture" else known.texture
        return " ".join(filter(None, (texture, known.colour, known.shape)))

    @property
    def value(self) -> str:
        """The held-out value."""
        return str(getattr(self.emblem, self.held_out))


CONCEPTS = (
    Concept("<arrow>", "solid green arrow", "triangle", "shape"),
    Concept("<flower>", "dotted pink flower", "star", "shape"),
    Concept("<bolt>", "striped yellow bolt", "cross", "shape"),
    Concept("<hourglass>", "solid orange hourglass", "triangle", "shape"),
    Concept("<ringed>", "ringed red star", "star", "texture"),
    Concept("<gradient>", "gradient blue heart", "heart", "texture"),
)


@dataclass(frozen=True)
class Group:
    """What is asked for in one set of prompts of one concept, or of two.

    Attributes:
        concepts: their words are in the prompts of ``personal``, from left to right.
        goals: all that each picture should show.
        personal: prompts with the words.
        plain: the same in words of the model's world.
        leaks: number of the emblem that must not take after the concept; None where all may.
    """

    concepts: tuple[Concept, ...]
    goals: tuple[Scene, ...]
    personal: tuple[str, ...]
    plain: tuple[str, ...]
    leaks: int | None

    def values(self, reading: Reading) -> dict[str, list[float]]:
        """By measure, a number for each picture; nan where a measure does not apply."""
        rows = [
            self._judge(ok, scene, goal)
            for ok, scene, goal in zip(
                reading.recognisable().tolist(), reading.scenes(), self.goals, strict=True
            )
        ]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _judge(self, recognised: bool, scene: Scene, goal: Scene) -> dict[str, float]:
        own: list[bool] = []
        held_out: list[bool] = []
        other = [recognised, len(scene.emblems) == len(goal.emblems)]
        for name, slot, value in stated(goal):
            hit = recognised and shown(scene, name, slot) == value
            mine = slot < len(self.concepts) and slot != self.leaks and name in LEARNED
            (own if mine else other).append(hit)
            if mine and name == self.concepts[slot].held_out:
                held_out.append(hit)
        leaked: list[bool] = []
        if self.leaks is not None:
            (concept,) = self.concepts
            found = shown(scene, concept.held_out, self.leaks)
            leaked.append(recognised and found == concept.value)
        return {
            "identity": _mean(own),
            "held_out": _mean(held_out),
            "concept": float(all(own)) if own else float("nan"),
            "accuracy": float(all(other)),
            "leakage": _mean(leaked),
        }


def _mean(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else float("nan")


MEASURES = {
    "identity": "share of shape, colour and texture that are the concept's",
    "held_out": "share of concepts whose held-out shape or texture is right",
    "concept": "share of pictures with shape, colour and texture of each concept right",
    "accuracy": "share of pictures with all else right: size, background, number of emblems, and "
    "other emblems",
    "leakage": "share of other emblems that show the concept's held-out shape or texture",
}

Draw = Callable[[Concept, np.random.Generator], tuple[Scene, str, str]]


def _pick(rng: np.random.Generator, values: Sequence[str], *taken: str | None) -> str:
    return str(rng.choice([value for value in values if value not in taken]))


def _said(scene: Scene, *phrases: str) -> str:
    """The caption of a scene with phrases for its first emblems' texture, colour and shape."""
    emblems = list(scene.emblems)
    for slot, phrase in enumerate(phrases):
        emblems[slot] = Emblem(phrase, None, None, emblems[slot].size)
    return caption(Scene(tuple(emblems), scene.background))


def _alone(concept: Concept, rng: np.random.Generator) -> tuple[Scene, str, str]:
    """The concept in another size and on another background."""
    emblem = replace(concept.emblem, size=_pick(rng, SIZES))
    scene = Scene((emblem,), _pick(rng, COLOURS, emblem.colour))
    return scene, _said(scene, concept.word), _said(scene, concept.plain)


def _other(concept: Concept, rng: np.random.Generator) -> Emblem:
    """An emblem of the concept's super-category in a colour of its own."""
    colour = _pick(rng, COLOURS, concept.emblem.colour)
    return Emblem(concept.super_category, colour, _pick(rng, TEXTURES), _pick(rng, SIZES))


def _beside(concept: Concept, rng: np.random.Generator) -> tuple[Scene, str, str]:
    """The concept, and one of its super-category on the right."""
    emblem, other = replace(concept.emblem, size=_pick(rng, SIZES)), _other(concept, rng)
    scene = Scene((emblem, other), _pick(rng, COLOURS, emblem.colour, other.colour))
    return scene, _said(scene, concept.word), _said(scene, concept.plain)


def _without(concept: Concept, rng: np.random.Generator) -> tuple[Scene, str, str]:
    """One of the super-category, without the concept."""
    other = _other(concept, rng)
    scene = Scene((other,), _pick(rng, COLOURS, other.colour))
    return scene, caption(scene), caption(scene)


def _groups(draw: Draw, leaks: int | None) -> Callable[[int, int], dict[str, Group]]:
    def make(each: int, seed: int) -> dict[str, Group]:
        made = {}
        for number, concept in enumerate(CONCEPTS):
            rng = np.random.default_rng([seed, number])
            scenes, personal, plain = zip(*(draw(concept, rng) for _ in range(each)), strict=True)
            made[concept.word] = Group((concept,), scenes, personal, plain, leaks)
        return made

    return make


def _pairs(each: int, seed: int) -> dict[str, Group]:
    """Two concepts in one picture: each concept stands left of the next."""
    made = {}
    for number, left in enumerate(CONCEPTS):
        right = CONCEPTS[(number + 1) % len(CONCEPTS)]
        rng = np.random.default_rng([seed, number])
        rows = []
        for _ in range(each):
            emblems = [replace(c.emblem, size=_pick(rng, SIZES)) for c in (left, right)]
            ground = _pick(rng, COLOURS, *(emblem.colour for emblem in emblems))
            scene = Scene(tuple(emblems), ground)
            words = _said(scene, left.word, right.word), _said(scene, left.plain, right.plain)
            rows.append((scene, *words))
        scenes, personal, plain = zip(*rows, strict=True)
        made[f"{left.word}{right.word}"] = Group((left, right), scenes, personal, plain, None)
    return made


PROMPTS: Mapping[str, Callable[[int, int], dict[str, Group]]] = {
    "alone": _groups(_alone, None),
    "beside": _groups(_beside, 1),
    "without": _groups(_without, 0),
    "together": _pairs,
}
"""Sets of prompts: groups by name, of a number of pictures each and a seed."""
