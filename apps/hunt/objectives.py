"""Objectives by name: what scores pictures in a search for heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity

from apps.emblem.score import HEADS
from apps.evaluate.networks.classifier import ClassifierExtractor
from apps.evaluate.networks.extractors import TextExtractor, load_extractor
from apps.evaluate.networks.names import choose
from apps.pipelines import model_name, pick_device

Score = Callable[[list[Image.Image], list[str]], Tensor]

READABLE = {head.removeprefix("first."): head for head in HEADS}
"""Heads of the Emblem classifier by what an objective calls them."""


@dataclass(frozen=True)
class NamedObjective:
    """Scores (N,) of N pictures for their prompts, and the name that results know them by."""

    name: str
    score: Score

    def __call__(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        return self.score(images, prompts)


def load_objective(name: str, device: str = "cpu") -> NamedObjective:
    """The objective of a name, see ``OBJECTIVES``, on a device, see ``pick_device``.

    Raises:
        ValueError: no objective has this name, or its network cannot be loaded.
    """
    load, source = choose(name, OBJECTIVES, "objective")
    kind = name.partition(":")[0]
    return NamedObjective(f"{kind}:{model_name(source)}" if source else kind, load(source, device))


def _clip(source: str, device: str) -> Score:
    extractor = load_extractor(f"clip:{source}" if source else "emblem-clip", device)
    assert isinstance(extractor, TextExtractor)

    def score(images: list[Image.Image], prompts: list[str]) -> Tensor:
        pictures = extractor.features(torch.stack([extractor.prepare(each) for each in images]))
        return cosine_similarity(pictures, extractor.text(prompts))

    return score


def _probability(source: str, device: str) -> Score:
    attribute, _, value = source.partition("=")
    if attribute not in READABLE:
        raise ValueError(
            f"objective 'emblem:{source}' names no attribute: expected ATTRIBUTE=VALUE with one of "
            f"{', '.join(READABLE)}"
        )
    values = HEADS[READABLE[attribute]]
    if value not in values:
        raise ValueError(
            f"objective 'emblem:{source}' has an unknown value: {attribute} is one of "
            f"{', '.join(values)}"
        )
    classifier = ClassifierExtractor(pick_device(device))

    def score(images: list[Image.Image], prompts: list[str]) -> Tensor:
        read = classifier.scorer.read(torch.stack([classifier.prepare(each) for each in images]))
        return read.probabilities[READABLE[attribute]][:, values.index(value)]

    return score


OBJECTIVES: dict[str, Callable[[str, str], Score]] = {
    "clip": _clip,
    "clip:ID_OR_PATH": _clip,
    "emblem:ATTRIBUTE=VALUE": _probability,
    "validity": lambda _, device: _probability("recognisable=yes", device),
}
"""Loaders by the form of name they answer to; they are given what follows the colon."""
