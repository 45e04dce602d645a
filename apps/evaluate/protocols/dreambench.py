"""DreamBench: the subjects and prompts on which personalisation is compared.

DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation, Ruiz et al.
2023, arXiv 2208.12242. Names, classes, wording and order are those of
``dataset/prompts_and_classes.txt`` in https://github.com/google/dreambooth; that a subject is live
is what its class says: cats and dogs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from apps.pictures import write_file

IMAGES_PER_PROMPT = 4
"""Pictures of each prompt: 30 subjects x 25 prompts x 4 = 3000."""


@dataclass(frozen=True)
class Subject:
    """What a subject is: its class noun, and whether it is alive (a pet) or an object."""

    class_noun: str
    live: bool


def _pet(class_noun: str) -> Subject:
    return Subject(class_noun, live=True)


def _object(class_noun: str) -> Subject:
    return Subject(class_noun, live=False)


SUBJECTS: dict[str, Subject] = {
    "backpack": _object("backpack"),
    "backpack_dog": _object("backpack"),
    "bear_plushie": _object("stuffed animal"),
    "berry_bowl": _object("bowl"),
    "can": _object("can"),
    "candle": _object("candle"),
    "cat": _pet("cat"),
    "cat2": _pet("cat"),
    "clock": _object("clock"),
    "colorful_sneaker": _object("sneaker"),
    "dog": _pet("dog"),
    "dog2": _pet("dog"),
    "dog3": _pet("dog"),
    "dog5": _pet("dog"),
    "dog6": _pet("dog"),
    "dog7": _pet("dog"),
    "dog8": _pet("dog"),
    "duck_toy": _object("toy"),
    "fancy_boot": _object("boot"),
    "grey_sloth_plushie": _object("stuffed animal"),
    "monster_toy": _object("toy"),
    "pink_sunglasses": _object("glasses"),
    "poop_emoji": _object("toy"),
    "rc_car": _object("toy"),
    "red_cartoon": _object("cartoon"),
    "robot_toy": _object("toy"),
    "shiny_sneaker": _object("sneaker"),
    "teapot": _object("teapot"),
    "vase": _object("vase"),
    "wolf_plushie": _object("stuffed animal"),
}

_PLACES = (
    "in the jungle",
    "in the snow",
    "on the beach",
    "on a cobblestone street",
    "on top of pink fabric",
    "on top of a wooden floor",
    "with a city in the background",
    "with a mountain in the background",
    "with a blue house in the background",
    "on top of a purple rug in a forest",
)
_PLACES_OF_OBJECTS = (
    "with a wheat field in the background",
    "with a tree and autumn leaves in the background",
    "with the Eiffel Tower in the background",
    "floating on top of water",
    "floating in an ocean of milk",
    "on top of green grass with sunflowers around it",
    "on top of a mirror",
    "on top of the sidewalk in a crowded street",
    "on top of a dirt road",
    "on top of a white rug",
)
_OUTFITS = (
    "wearing a red hat",
    "wearing a santa hat",
    "wearing a rainbow scarf",
    "wearing a black top hat and a monocle",
    "in a chef outfit",
    "in a firefighter outfit",
    "in a police outfit",
    "wearing pink glasses",
    "wearing a yellow shirt",
    "in a purple wizard outfit",
)
_PROPERTIES = ("red", "purple", "shiny", "wet", "cube shaped")


def prompts(class_noun: str, live: bool, token: str = "sks") -> list[str]:
    """The 25 prompts of a subject in the official order.

    Args:
        class_noun: what the subject is, such as ``dog``.
        live: whether it wears outfits, as pets do, or stands in places, as objects do.
        token: the word that stands for the subject itself.
    """
    scenes = _PLACES + (_OUTFITS if live else _PLACES_OF_OBJECTS)
    return [
        *(f"a {token} {class_noun} {scene}" for scene in scenes),
        *(f"a {name} {token} {class_noun}" for name in _PROPERTIES),
    ]


def write_prompts(folder: Path, token: str = "sks") -> None:
    """Write ``SUBJECT.txt`` with the 25 prompts of each subject, one a line.

    Raises:
        ValueError: the token is no single word, or the folder cannot be written to.
    """
    if not token or token != "".join(token.split()):
        raise ValueError(f"token must be one word, found {token!r}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, subject in SUBJECTS.items():
            lines = prompts(subject.class_noun, subject.live, token)
            write_file(folder / f"{name}.txt", ("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise ValueError(f"cannot write to {str(folder)!r}: {error.strerror}") from error


def without_token(prompt: str, token: str = "sks") -> str:
    """The prompt as CLIP-T reads it: ``a sks dog in the snow`` becomes ``a dog in the snow``."""
    return " ".join(re.sub(rf"(?<!\w){re.escape(token)}(?!\w)", " ", prompt).split())
