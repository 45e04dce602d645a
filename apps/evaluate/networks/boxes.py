"""What detectors find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """A label found in a picture, with its score in [0, 1].

    Attributes:
        xyxy: left, top, right and bottom edge in pixels of the picture, whose own edges are
            0, 0, its width and its height.
    """

    label: str
    score: float
    xyxy: tuple[float, float, float, float]


def check_labels(labels: Sequence[str]) -> None:
    """Raise ValueError unless there are labels to look for."""
    if isinstance(labels, str) or not labels:
        raise ValueError(f"labels are {labels!r}; expected a list of one or more texts")
