"""Settings of benchmarks, checked as they are made; light enough for ``--help``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

MODELS = ("emblem-unet", "tiny", "sd15-half", "sd15", "sdxl", "sd35", "flux")
PARTS = {
    "overhead": MODELS,
    "evaluations": ("emblem-unet",),
    "adaptive": ("emblem-unet",),
    "pag": ("emblem-unet", "tiny", "sd15-half", "sd15", "sdxl"),
    "memory": MODELS,
}
"""The models that each part of the benchmark of guidance can be measured on."""

DEFAULT = ("emblem-unet", "sd15")

TRAINED_MODELS = ("emblem-unet", "tiny", "sd15")
TRAINING_PARTS = dict.fromkeys(("memory", "throughput", "layers"), TRAINED_MODELS)
"""The models that each part of the benchmark of personalization can be measured on."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure, and where.

    Attributes:
        models: any of those that the benchmark knows.
        parts: any of its parts; each is measured on those of the models that it can be.
        pairs: measurements of each ratio, from 3 up.
        device, dtype: as ``apps.pipelines.load_pipeline`` takes them.
        out: path of the results without ``.csv`` and ``.json``.

    Raises:
        ValueError: an unknown name, a number out of its range, or nothing to measure.
    """

    known: ClassVar[Mapping[str, tuple[str, ...]]]

    models: tuple[str, ...] = DEFAULT
    parts: tuple[str, ...]
    pairs: int = 15
    steps: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    out: Path

    def __post_init__(self) -> None:
        models = tuple(dict.fromkeys(model for known in self.known.values() for model in known))
        for name, given, known in (
            ("model", self.models, models),
            ("part", self.parts, tuple(self.known)),
        ):
            if unknown := [each for each in given if each not in known]:
                raise ValueError(f"unknown {name} {unknown[0]!r}: expected {', '.join(known)}")
        for name, value, least in (("pairs", self.pairs, 3), ("steps", self.steps, 1)):
            if value is not None and value < least:
                raise ValueError(f"{name} must be a whole number from {least} up, found {value}")
        if not any(self.planned(model) for model in self.models):
            wanted = sorted({model for part in self.parts for model in self.known[part]})
            raise ValueError(
                f"{' and '.join(self.parts)} cannot be measured on {' or '.join(self.models)}: "
                f"expected {' or '.join(wanted)}"
            )

    def planned(self, model: str) -> tuple[str, ...]:
        """Parts to measure on a model, in order."""
        return tuple(part for part in self.parts if model in self.known[part])


@dataclass(frozen=True, kw_only=True)
class BenchSettings(Settings):
    """What to measure of guidance.

    Attributes:
        steps: denoising steps of a sample; None is the model's own number.
        compiled: compile the denoiser before anything is measured.
    """

    known = PARTS

    parts: tuple[str, ...] = tuple(PARTS)
    compiled: bool = False
    out: Path = Path("assets/results/bench-guidance")


@dataclass(frozen=True, kw_only=True)
class PersonalizeSettings(Settings):
    """What to measure of personalization.

    Attributes:
        steps: training steps whose memory is measured, and denoising steps of a sample; None is
            10 on a GPU, and on a CPU 3 and 1, or 25 for emblem-unet's samples.
        resolution: side of the pictures in pixels, a multiple of 64; None is the model's own, on a
            CPU at most 256.
        clock: ``wall``, or ``processor`` for a CPU that others use, too.
    """

    known = TRAINING_PARTS

    parts: tuple[str, ...] = tuple(TRAINING_PARTS)
    resolution: int | None = None
    clock: str = "wall"
    out: Path = Path("assets/results/bench-personalize")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resolution is not None and (self.resolution < 64 or self.resolution % 64):
            raise ValueError(
                f"resolution must be a multiple of 64 from 64 up, found {self.resolution}"
            )
        if self.clock not in ("wall", "processor"):
            raise ValueError(f"unknown clock {self.clock!r}: expected wall, processor")
