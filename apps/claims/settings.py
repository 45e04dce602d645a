"""Settings of a measurement of claims, checked as they are made; light enough for ``--help``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

EACH = 2
"""Pictures of each request."""


@dataclass(frozen=True, kw_only=True)
class ClaimsSettings:
    """What to measure.

    Attributes:
        images: pictures in each cell, a multiple of ``unit`` and at least ``least``.
        seed: of prompts and noise, from 0.
        only: regular expression; cells whose name holds no match are not measured.
        out: folder of the results.
        work: folder of the finished cells.

    Raises:
        ValueError: a setting is out of its range.
    """

    unit: ClassVar[int] = EACH
    least: ClassVar[int] = 2 * EACH

    images: int = 512
    seed: int = 0
    only: str | None = None
    out: Path = Path("assets/results")
    work: Path = Path("runs/claims-guidance")

    def __post_init__(self) -> None:
        if self.images < self.least or self.images % self.unit:
            raise ValueError(
                f"images must be a multiple of {self.unit} from {self.least} up, found "
                f"{self.images}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must be a whole number from 0 up, found {self.seed}")


@dataclass(frozen=True, kw_only=True)
class PersonalizeSettings(ClaimsSettings):
    """What to measure of methods that learn: each of six concepts gets as many pictures."""

    unit: ClassVar[int] = 6
    least: ClassVar[int] = 6
