"""Feature extractors: networks that turn pictures into vectors, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from apps.evaluate.networks.classifier import ClassifierExtractor
from apps.evaluate.networks.clip import load_clip, load_emblem_clip
from apps.evaluate.networks.dino import DinoExtractor
from apps.evaluate.networks.inception import InceptionExtractor
from apps.evaluate.networks.names import choose
from apps.pipelines import pick_device


class Extractor(Protocol):
    """Turns pictures into vectors, in float32; neither order nor size of a batch matters.

    Attributes:
        name: by which the user and results know it; a folder goes by its own name, without path.
        kind: ``classifier``, ``clip``, ``dino`` or ``inception``.
        dimension: length D of the vectors.
    """

    name: str
    kind: str
    dimension: int

    def prepare(self, image: Image.Image, /) -> Tensor:
        """One picture of any size as the network takes it, (3, H, W) on the CPU."""
        ...

    def features(self, batch: Tensor) -> Tensor:
        """Vectors (B, D) of prepared pictures (B, 3, H, W), on the CPU."""
        ...

    def describe(self) -> dict[str, Any]:
        """What decides the vectors: weights by their hash, preparation, dtype."""
        ...


@runtime_checkable
class TextExtractor(Extractor, Protocol):
    """Turns texts into vectors of the same space too."""

    def text(self, prompts: Sequence[str]) -> Tensor:
        """Vectors (B, D) of prompts, on the CPU; what is beyond the limit of tokens is cut."""
        ...

    def cut(self, prompt: str) -> int:
        """How many tokens of a prompt are beyond the limit."""
        ...


EXTRACTORS: dict[str, Callable[[str, torch.device], Extractor]] = {
    "emblem-classifier": lambda _, device: ClassifierExtractor(device),
    "emblem-clip": load_emblem_clip,
    "clip:ID_OR_PATH": load_clip,
    "dino:ID_OR_PATH": DinoExtractor,
    "inception": InceptionExtractor,
    "inception:WEIGHTS_FILE": InceptionExtractor,
}
"""Loaders by the form of name they answer to; they are given what follows the colon."""


def load_extractor(name: str, device: str = "cpu") -> Extractor:
    """The extractor of a name, see ``EXTRACTORS``, on a device, see ``pick_device``.

    Raises:
        ValueError: no extractor has this name, or it cannot be loaded.
    """
    load, source = choose(name, EXTRACTORS, "extractor")
    return load(source, pick_device(device))
