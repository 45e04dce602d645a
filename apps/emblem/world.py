"""The Emblem world: attributes, their known long-tailed distribution, and captions.

A scene shows one emblem, or two side by side, on a plain background. An emblem is a shape with a
colour, a texture and a size. Every attribute is drawn from a rank power law, p(rank k) ~ k^-a, with
the exponent ``a`` of :data:`EXPONENTS`, so the probability of any scene is known in closed form and
``rarity = -log p`` is exact rather than estimated.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

SHAPES = ("circle", "star", "square", "heart", "triangle", "ring", "cross", "crescent")
COLOURS = ("red", "blue", "yellow", "green", "purple", "orange", "white", "pink")
TEXTURES = ("solid", "striped", "dotted", "checkered")
SIZES = ("large", "small")

HELD_OUT_SHAPES = ("arrow", "flower", "bolt", "hourglass")
HELD_OUT_TEXTURES = ("ringed", "gradient")
STYLES = ("plain", "outlined", "embossed")

ALL_SHAPES = SHAPES + HELD_OUT_SHAPES
ALL_TEXTURES = TEXTURES + HELD_OUT_TEXTURES

EXPONENTS = {"shape": 0.8, "colour": 0.6, "texture": 0.5, "size": 0.5, "background": 0.4}
"""Exponent of the rank power law per attribute; the tuples above are in rank order."""

TWO_EMBLEMS = 0.2
"""Probability that a scene shows two emblems."""

HELD_OUT_COMBINATIONS = 0.1
"""Share of (shape, colour, texture, size) combinations that training never sees."""

STATED = {"size": 0.7, "texture": 0.8, "colour": 0.9, "background": 0.75}
"""Probability that a caption states an attribute; the shape is always stated."""


@dataclass(frozen=True)
class Emblem:
    """One emblem. In the result of :func:`parse` an attribute that is not stated is None."""

    shape: str | None
    colour: str | None
    texture: str | None
    size: str | None
    style: str | None = "plain"


@dataclass(frozen=True)
class Scene:
    """One emblem, or two (left, right), on a background colour."""

    emblems: tuple[Emblem, ...]
    background: str | None


def _power_law(values: Sequence[str], exponent: float) -> dict[str, float]:
    weights = [rank**-exponent for rank in range(1, len(values) + 1)]
    return {value: weight / sum(weights) for value, weight in zip(values, weights, strict=True)}


MARGINALS: dict[str, dict[str, float]] = {
    "shape": _power_law(SHAPES, EXPONENTS["shape"]),
    "colour": _power_law(COLOURS, EXPONENTS["colour"]),
    "texture": _power_law(TEXTURES, EXPONENTS["texture"]),
    "size": _power_law(SIZES, EXPONENTS["size"]),
    "background": _power_law(COLOURS, EXPONENTS["background"]),
}


def _background_law(emblems: Sequence[Emblem]) -> dict[str, float]:
    """The background's law given the emblems: never the colour of one of them."""
    taken = {emblem.colour for emblem in emblems}
    free = {name: p for name, p in MARGINALS["background"].items() if name not in taken}
    total = sum(free.values())
    return {name: p / total for name, p in free.items()}


def probability(scene: Scene) -> float:
    """Probability of a scene under the world's law, in [0, 1]; 0 for anything held out.

    Two emblems are drawn independently; the background avoids their colours. Placement is not an
    attribute. Combinations that training leaves out still have their probability in the world.
    """
    p = TWO_EMBLEMS if len(scene.emblems) == 2 else 1 - TWO_EMBLEMS
    for emblem in scene.emblems:
        if emblem.style != "plain":
            return 0.0
        for name in ("shape", "colour", "texture", "size"):
            p *= MARGINALS[name].get(getattr(emblem, name), 0.0)
    return p * _background_law(scene.emblems).get(scene.background or "", 0.0)


def rarity(scene: Scene) -> float:
    """``-log p(scene)`` in nats; infinite for a scene that the world never shows."""
    p = probability(scene)
    return -math.log(p) if p > 0 else math.inf


def is_held_out(emblem: Emblem) -> bool:
    """Whether training leaves out this (shape, colour, texture, size) combination."""
    key = f"{emblem.size} {emblem.texture} {emblem.colour} {emblem.shape}".encode()
    digest = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
    return digest / 2**64 < HELD_OUT_COMBINATIONS


def _choose(law: dict[str, float], rng: np.random.Generator) -> str:
    return str(rng.choice(list(law), p=list(law.values())))


def _sample_emblem(rng: np.random.Generator) -> Emblem:
    names = ("shape", "colour", "texture", "size")
    return Emblem(**{name: _choose(MARGINALS[name], rng) for name in names})


def sample_scene(
    rng: np.random.Generator, *, held_out: bool | None = None, count: int | None = None
) -> Scene:
    """Draw a scene from the world's law.

    Args:
        rng: source of randomness.
        held_out: True draws only emblems of held-out combinations, False only of the others
            (what training sees), None from the whole world.
        count: 1 or 2 emblems; None draws the number as well.
    """
    if count is None:
        count = 2 if rng.random() < TWO_EMBLEMS else 1
    emblems: list[Emblem] = []
    while len(emblems) < count:
        emblem = _sample_emblem(rng)
        if held_out is None or is_held_out(emblem) == held_out:
            emblems.append(emblem)
    return Scene(tuple(emblems), _choose(_background_law(emblems), rng))


def sample_any(rng: np.random.Generator, *, count: int | None = None) -> Scene:
    """Draw a scene uniformly from everything that can be drawn, held-out parts and styles too.

    The autoencoder and the scorer learn from these as well; the diffusion models never do.
    """
    if count is None:
        count = 2 if rng.random() < TWO_EMBLEMS else 1

    def pick(values: Sequence[str]) -> str:
        return values[int(rng.integers(len(values)))]

    emblems = tuple(
        Emblem(pick(ALL_SHAPES), pick(COLOURS), pick(ALL_TEXTURES), pick(SIZES), pick(STYLES))
        for _ in range(count)
    )
    taken = {emblem.colour for emblem in emblems}
    return Scene(emblems, pick([name for name in COLOURS if name not in taken]))


def _noun_phrase(emblem: Emblem) -> str:
    style = None if emblem.style == "plain" else emblem.style
    words = [emblem.size, style, emblem.texture, emblem.colour, emblem.shape]
    phrase = " ".join(word for word in words if word)
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def caption(scene: Scene) -> str:
    """The caption of a scene; an attribute that is None is left out."""
    phrases = [_noun_phrase(emblem) for emblem in scene.emblems]
    if len(phrases) == 2:
        text = f"{phrases[0]} on the left and {phrases[1]} on the right"
    else:
        text = phrases[0]
    if scene.background is None:
        return text
    article = "an" if scene.background[0] in "aeiou" else "a"
    return f"{text} on {article} {scene.background} background"


def drop_parts(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with optional attributes set to None at random, as captions leave them out."""

    def keep(name: str, value: str | None) -> str | None:
        return value if rng.random() < STATED[name] else None

    emblems = tuple(
        replace(
            emblem,
            size=keep("size", emblem.size),
            texture=keep("texture", emblem.texture),
            colour=keep("colour", emblem.colour),
        )
        for emblem in scene.emblems
    )
    return Scene(emblems, keep("background", scene.background))


_VOCABULARY = {
    "shape": ALL_SHAPES,
    "colour": COLOURS,
    "texture": ALL_TEXTURES,
    "size": SIZES,
    "style": STYLES[1:],
}
_KIND = {word: kind for kind, words in _VOCABULARY.items() for word in words}


def parse(text: str) -> Scene:
    """Read a caption back into what it states; attributes that it leaves out are None.

    Raises:
        ValueError: the text is not a caption of this world.
    """
    body = " ".join(text.lower().replace(",", " ").split())
    background = None
    if match := re.search(r" on an? (\w+) background$", body):
        background, body = match[1], body[: match.start()]
        if background not in COLOURS:
            raise ValueError(f"background is {background!r}; expected one of {', '.join(COLOURS)}")
    pair = re.fullmatch(r"(.+) on the left and (.+) on the right", body)
    parts = pair.groups() if pair else (body,)
    return Scene(tuple(_parse_emblem(part, text) for part in parts), background)


def _parse_emblem(phrase: str, text: str) -> Emblem:
    article, _, rest = phrase.partition(" ")
    words = rest.split()
    stated = {_KIND.get(word): word for word in words}
    if article not in ("a", "an") or None in stated or len(stated) != len(words):
        raise ValueError(
            f"caption is {text!r}; expected the form 'a [size] [texture] [colour] shape "
            "[on a colour background]' in words of the world"
        )
    if "shape" not in stated:
        raise ValueError(
            f"caption {text!r} names no shape; expected one of {', '.join(ALL_SHAPES)}"
        )
    return Emblem(
        shape=stated["shape"],
        colour=stated.get("colour"),
        texture=stated.get("texture"),
        size=stated.get("size"),
        style=stated.get("style", "plain"),
    )
