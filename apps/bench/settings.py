"""Settings of a benchmark, checked as they are made; light enough for ``--help``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MODELS = ("emblem-unet", "tiny", "sd15-half", "sd15", "sdxl", "sd35", "flux")
PARTS = {
    "overhead": MODELS,
    "evaluations": ("emblem-unet",),
    "adaptive": ("emblem-unet",),
    "pag": ("emblem-unet", "tiny", "sd15-half", "sd15", "sdxl"),
    "memory": MODELS,
}
"""The models that each part can be measured on."""

DEFAULT = ("emblem-unet", "sd15")


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """What to measure, and where.

    Attributes:
        models: any of ``MODELS``.
        parts: any of ``PARTS``; each is measured on those of the models that it can be.
        pairs: measurements of each ratio, from 3 up.
        steps: denoising steps of a sample; None is the model's own number.
        device, dtype: as ``apps.pipelines.load_pipeline`` takes them.
        compiled: compile the denoiser before anything is measured.
        out: path of the results without ``.csv`` and ``.json``.

    Raises:
        ValueError: an unknown name, a number out of its range, or nothing to measure.
    """

    models: tuple[str, ...] = DEFAULT
    parts: tuple[str, ...] = tuple(PARTS)
    pairs: int = 15
    steps: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    compiled: bool = False
    out: Path = Path("assets/results/bench-guidance")

    def __post_init__(self) -> None:
        for name, given, known in (("model", self.models, MODELS), ("part", self.parts, PARTS)):
            if unknown := [each for each in given if each not in known]:
                raise ValueError(f"unknown {name} {unknown[0]!r}: expected {', '.join(known)}")
        for name, value, least in (("pairs", self.pairs, 3), ("steps", self.steps, 1)):
            if value is not None and value < least:
                raise ValueError(f"{name} must be a whole number from {least} up, found {value}")
        if not any(self.planned(model) for model in self.models):
            raise ValueError(
                f"{' and '.join(self.parts)} cannot be measured on {' or '.join(self.models)}: "
                f"expected {' or '.join(sorted({m for part in self.parts for m in PARTS[part]}))}"
            )

    def planned(self, model: str) -> tuple[str, ...]:
        """Parts to measure on a model, in order."""
        return tuple(part for part in self.parts if model in PARTS[part])
