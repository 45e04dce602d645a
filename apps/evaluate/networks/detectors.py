"""Detectors: networks that find labels in pictures, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from PIL import Image

from apps.evaluate.networks.boxes import Box
from apps.evaluate.networks.emblem_detector import EmblemDetector
from apps.evaluate.networks.names import choose
from apps.evaluate.networks.owlvit import OwlViT
from apps.pipelines import pick_device


class Detector(Protocol):
    """Finds labels in pictures.

    Attributes:
        name: by which the user and results know it; a folder goes by its own name, without path.
    """

    name: str

    def detect(self, image: Image.Image, labels: Sequence[str]) -> list[Box]:
        """Boxes of positive area inside a picture, any number for each label.

        Raises:
            ValueError: there is no label, or the detector cannot read one or the picture.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What decides the boxes: weights by their hash, preparation, threshold."""
        ...


DETECTORS: dict[str, Callable[[str, torch.device], Detector]] = {
    "emblem": lambda _, device: EmblemDetector(device),
    "owlvit:ID_OR_PATH": OwlViT,
}
"""Loaders by the form of name they answer to; they are given what follows the colon."""


def load_detector(name: str, device: str = "cpu") -> Detector:
    """The detector of a name, see ``DETECTORS``, on a device, see ``pick_device``.

    Raises:
        ValueError: no detector has this name, or it cannot be loaded.
    """
    load, source = choose(name, DETECTORS, "detector")
    return load(source, pick_device(device))
