"""The methods of personalization as commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Option(NamedTuple):
    """A setting of a method as an option; spelled out here, so that --help loads no method."""

    kind: type
    help: str


class Command(NamedTuple):
    """A method on the command line."""

    home: str
    cls: str
    summary: str
    example: str
    options: Mapping[str, Option]


_WORD = Option(str, "The word to learn, such as <my-cat>.")
_START = Option(str, "Text whose vectors the new ones start as; best a word for what is seen.")
_VECTORS = Option(int, "Vectors of the word.")
_CLIP_SKIP = Option(int, "Layers of CLIP to leave out, as pictures are to be drawn with.")
COMMANDS = {
    "textual-inversion": Command(
        "personalize.textual_inversion",
        "TextualInversion",
        "Learn a word for what a few photos show; the model stays as it is.",
        '--placeholder_token "<my-cat>" --initializer_token cat',
        {
            "placeholder_token": _WORD,
            "initializer_token": _START,
            "initializer_file": Option(Path, "Embeddings to go on from instead."),
            "num_vectors": _VECTORS,
            "class_word": Option(str, "Word to follow the placeholder in training."),
            "norm": Option(str, "After each step: none, std_pull or rescale."),
            "l2_to_init": Option(float, "Weight of the distance of the vectors from their start."),
            "clip_skip": _CLIP_SKIP,
        },
    ),
    "perfusion": Command(
        "personalize.perfusion",
        "Perfusion",
        "Learn a concept whose strength is set when drawing, in about 65 KB.",
        '--placeholder_token "<my-cat>" --super_category cat',
        {
            "placeholder_token": _WORD,
            "super_category": Option(str, "What the concept is one of, such as cat."),
            "covariance": Option(Path, "File of estimate_covariance; default: estimated now."),
            "key_lock": Option(bool, "Lock the keys to the super-category; on by default."),
            "beta": Option(float, "Of the gates in training."),
            "temperature": Option(float, "Of the gates in training."),
            "ema": Option(float, "Share of i* that stays at each step."),
            "embedding_lr": Option(float, "Rate of the embedding, relative to the values'."),
            "clip_skip": _CLIP_SKIP,
        },
    ),
    "zoodip": Command(
        "personalize.zoodip",
        "ZOODiP",
        "Learn a word on a model in int8 with forward passes only, in very little memory.",
        '--placeholder_token "<my-cat>" --initializer_token cat',
        {
            "placeholder_token": _WORD,
            "initializer_token": _START,
            "num_vectors": _VECTORS,
            "directions": Option(int, "Perturbed copies at each step."),
            "mu": Option(float, "Length of the perturbations."),
            "history": Option(int, "Steps whose vectors make up the subspace."),
            "nu": Option(float, "Share of their variance to give up."),
            "norm_correction": Option(bool, "Divide by what random directions lengthen by."),
            "quantize": Option(bool, "Put the weights of all networks in int8; on by default."),
            "clip_skip": _CLIP_SKIP,
        },
    ),
}
