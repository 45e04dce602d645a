"""Settings of the programs, checked as they are made; light enough to import for ``--help``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from apps.schedulers import check_scheduler

DEFAULT_MODEL = "emblem-unet"
DEFAULT_GUIDANCE = "CFG(5)"
MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """What to make with ``apps.sample.sample``.

    Attributes:
        prompts: at least one text; each becomes ``num_images`` pictures.
        out: folder for the pictures; created if need be, files of the same name are replaced.
        model: name of a shipped model, folder of a diffusers pipeline, or id on the hub.
        guidance: rule as text, such as ``CFG(6) + Rescale(0.7)``, or ``none``.
        negative_prompt: what the pictures should not show.
        steps: denoising steps.
        seed: of the first picture of each prompt; picture i has ``seed + i``.
        num_images: pictures per prompt.
        batch_size: pictures made at once.
        height, width: in pixels; None is the model's own size.
        scheduler: short name, see ``apps.schedulers``; None is the model's own.
        device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:1`` and so on.
        dtype: ``auto``, ``float32``, ``float16`` or ``bfloat16``.
        metadata: write the settings into the pictures.

    Raises:
        TypeError, ValueError: a setting is of the wrong type or out of its range.
    """

    prompts: tuple[str, ...]
    out: Path
    model: str = DEFAULT_MODEL
    guidance: str = DEFAULT_GUIDANCE
    negative_prompt: str | None = None
    steps: int = 25
    seed: int = 0
    num_images: int = 4
    batch_size: int = 4
    height: int | None = None
    width: int | None = None
    scheduler: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    metadata: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.prompts, str) or not self.prompts:
            raise ValueError(f"prompts must be one or more texts, found {self.prompts!r}")
        for number, prompt in enumerate(self.prompts, 1):
            if not isinstance(prompt, str):
                raise TypeError(f"prompt {number} must be text, found {type(prompt).__name__}")
            if not prompt.strip():
                raise ValueError(f"prompt {number} must say what to draw, found {prompt!r}")
        for name in ("steps", "num_images", "batch_size"):
            _check_whole(name, getattr(self, name), 1)
        for name in ("height", "width"):
            if getattr(self, name) is not None:
                _check_whole(name, getattr(self, name), 1)
        if self.scheduler is not None:
            check_scheduler(self.scheduler)
        _check_whole("seed", self.seed, 0, MAX_SEED - self.num_images + 1)

    @property
    def guided(self) -> bool:
        """Whether a guidance rule is to be used."""
        return self.guidance.strip().lower() != "none"


def _check_whole(name: str, value: object, low: int, high: int | None = None) -> None:
    expected = f"a whole number from {low} " + ("up" if high is None else f"to {high}")
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be {expected}, found {value!r} ({type(value).__name__})")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{name} must be {expected}, found {value}")
