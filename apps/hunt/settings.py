"""Settings of a search for heads, checked as they are made; light enough to import for --help."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from apps.settings import DEFAULT_MODEL, MAX_SEED, check_whole, is_guided


@dataclass(frozen=True, kw_only=True)
class HuntSettings:
    """What to search with ``apps.hunt.run.run``.

    Attributes:
        prompts: at least one text, none twice.
        out: JSON file to write; the heat map goes beside it.
        work: folder where scores are kept during the search.
        objective: name; see ``apps.hunt.objectives``.
        model: name of a shipped model, folder of a diffusers pipeline, or id on the hub.
        layers: selectors of the layers and heads to choose from.
        k: heads to find.
        scale, strength: of ``SoftPAG``, above 0.
        guidance: rule beside it as text, or ``none``.
        steps: denoising steps.
        num_seeds: pictures of each prompt, with the seeds ``seed``, ``seed + 1`` and so on.
        seed: of the first picture of each prompt.
        batch_size: pictures made at once.
        height, width: in pixels; None is the model's own size.
        device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:1`` and so on.
        dtype: ``auto``, ``float32``, ``float16`` or ``bfloat16``.

    Raises:
        TypeError, ValueError: a setting is of the wrong type or out of its range.
    """

    prompts: tuple[str, ...]
    out: Path
    work: Path
    objective: str = "clip"
    model: str = DEFAULT_MODEL
    layers: tuple[str, ...] = ("*",)
    k: int = 3
    scale: float = 3.0
    strength: float = 1.0
    guidance: str = "none"
    steps: int = 12
    num_seeds: int = 1
    seed: int = 0
    batch_size: int = 8
    height: int | None = None
    width: int | None = None
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if len(set(self.prompts)) < len(self.prompts):
            again = next(text for text in self.prompts if self.prompts.count(text) > 1)
            raise ValueError(f"prompts must hold each text once, found {again!r} again")
        for name in ("k", "steps", "num_seeds", "batch_size"):
            check_whole(name, getattr(self, name), 1)
        for name in ("height", "width"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 1)
        check_whole("seed", self.seed, 0, MAX_SEED - self.num_seeds + 1)
        if not (isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be a finite number above 0, found {self.scale:g}")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength must be above 0 and at most 1, found {self.strength:g}")

    @property
    def guided(self) -> bool:
        """Whether a rule acts beside the softened heads."""
        return is_guided(self.guidance)
