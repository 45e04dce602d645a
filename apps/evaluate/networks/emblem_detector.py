"""Detector of the Emblem world: places from the pixels, attributes from the shipped classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from apps.emblem.data import parse_emblem
from apps.emblem.pictures import to_tensor
from apps.emblem.render import SIZE
from apps.emblem.score import ATTRIBUTES, Reading, Scorer
from apps.emblem.world import Emblem
from apps.evaluate.networks.boxes import Box, check_labels
from apps.evaluate.networks.pretrained import exact, weights_hash
from apps.shipped import shipped

CLASSIFIER = "emblem-classifier"
THRESHOLD = 0.5
CONTRAST = 40
"""Least difference to the background, in levels of 256 of one channel, of an emblem's pixels."""

Corners = tuple[int, int, int, int]


class EmblemDetector:
    """Finds the one or two emblems of a 64 x 64 picture that fit a phrase such as "red star".

    The score of an emblem for a label is the probability that the picture shows this number of
    emblems, times that of each attribute that the label states; boxes of a score up to 0.5 are
    dropped, so that a label without its emblem has none.
    """

    name = "emblem"

    def __init__(self, device: torch.device) -> None:
        self._scorer = Scorer.from_pretrained(shipped(CLASSIFIER), str(device))
        self._weights = weights_hash(self._scorer.classifier)

    @exact()
    def detect(self, image: Image.Image, labels: Sequence[str]) -> list[Box]:
        """Boxes of a 64 x 64 picture, by label and then from left to right.

        Raises:
            ValueError: the picture is of another size, or a label does not name one emblem.
        """
        check_labels(labels)
        wanted = {label: parse_emblem(label) for label in labels}
        if image.size != (SIZE, SIZE):
            raise ValueError(
                f"picture is {image.width} x {image.height} pixels; the emblem detector reads "
                f"{SIZE} x {SIZE}"
            )
        pixels = np.array(image.convert("RGB"))
        reading = self._scorer.read(to_tensor(pixels[None]))
        count = 1 + int(reading.probabilities["count"][0].argmax())
        boxes = []
        for label, emblem in wanted.items():
            for slot, corners in enumerate(places(pixels, count)):
                score = _probability(reading, emblem, slot, count)
                if corners and score > THRESHOLD:
                    boxes.append(Box(label, score, corners))
        return boxes

    def describe(self) -> dict[str, Any]:
        """What decides the boxes."""
        return {
            "name": self.name,
            "network": CLASSIFIER,
            "weights": self._weights,
            "dtype": "float32",
            "threshold": THRESHOLD,
            "contrast": CONTRAST,
        }


def places(pixels: NDArray[np.uint8], count: int) -> list[Corners | None]:
    """Where the emblems of a picture (64, 64, 3) are, from left to right.

    What differs from the median colour of the picture's border is an emblem; two are cut apart at
    the emptiest column around the middle. None stands for a side with nothing on it.
    """
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    difference = np.abs(pixels - np.median(border, axis=0)).max(axis=-1)
    filled = difference > CONTRAST
    if count == 1:
        return [_corners(filled)]
    around = range(SIZE * 3 // 8, SIZE * 5 // 8)
    split = min(around, key=lambda x: (filled[:, x].sum(), abs(x - SIZE // 2)))
    left = np.arange(SIZE) < split
    return [_corners(filled & left), _corners(filled & ~left)]


def _corners(filled: NDArray[np.bool_]) -> Corners | None:
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _probability(reading: Reading, emblem: Emblem, slot: int, count: int) -> float:
    """That the first picture shows ``count`` emblems, and this one at a place."""
    found = reading.probabilities
    p = found["recognisable"][0, 1] * found["count"][0, count - 1]
    for name, values in ATTRIBUTES.items():
        if (value := getattr(emblem, name)) is not None:
            p = p * found[f"{('first', 'second')[slot]}.{name}"][0, values.index(value)]
    return float(p)
