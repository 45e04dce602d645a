"""Settings of a training, checked as they are made; light enough to import for --help."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any

from apps.settings import DEFAULT_MODEL, MAX_SEED, check_whole

KINDS = ("alignment", "discriminator", "reward", "classifier")
DEFAULT_SCORER = "clip"


@dataclass(frozen=True, kw_only=True)
class EvaluatorSettings:
    """What to train with ``apps.train.run.run``.

    Attributes:
        kind: one of ``KINDS``.
        data: folder of pictures, with captions where the model draws from prompts.
        out: folder of the evaluator.
        model: name of a shipped model, folder of a diffusers pipeline, or id on the hub.
        label: for a classifier, the place of the class in ``metadata.jsonl``, such as
            ``scene.emblems.0.texture``; None for the folder that a picture is in.
        scorer: for a reward, the name of what scores finished pictures; see
            ``apps.train.scorers``; None is ``clip``.
        pictures: most pictures to use; None for all.
        sampling_steps: most denoising steps of a run that is recorded.
        keep: steps of a run that are recorded.
        scales: lowest and highest guidance scale of those runs.
        steps, training_batch, lr: of the training.
        width, depth: of the network.
        seed: of everything random.
        batch_size: pictures made at once.
        records: folder where predictions are kept; None is ``records`` beside ``out``.
        work: folder where the training is kept; None is ``out`` with ``.work``.
        device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:1`` and so on.
        dtype: ``auto``, ``float32``, ``float16`` or ``bfloat16``.

    Raises:
        TypeError, ValueError: a setting is of the wrong type or out of its range.
    """

    kind: str
    data: Path
    out: Path
    model: str = DEFAULT_MODEL
    label: str | None = None
    scorer: str | None = None
    pictures: int | None = None
    sampling_steps: int = 16
    keep: int = 6
    scales: tuple[float, float] = (0.0, 8.0)
    steps: int = 2000
    training_batch: int = 256
    lr: float = 2e-3
    width: int = 48
    depth: int = 3
    seed: int = 0
    batch_size: int = 16
    records: Path | None = None
    work: Path | None = None
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, found {self.kind!r}")
        for name, kind in (("label", "classifier"), ("scorer", "reward")):
            if getattr(self, name) is not None and self.kind != kind:
                raise ValueError(f"{name} is for a {kind}, found kind {self.kind!r}; leave it out")
        for name in ("sampling_steps", "keep", "steps", "batch_size"):
            check_whole(name, getattr(self, name), 1)
        check_whole("training_batch", self.training_batch, 2)
        check_whole("width", self.width, 4, 512)
        check_whole("depth", self.depth, 1, 32)
        if self.pictures is not None:
            check_whole("pictures", self.pictures, 2)
        check_whole("seed", self.seed, 0, MAX_SEED // 2_000_000)
        low, high = self.scales
        if not (isfinite(low) and isfinite(high) and 0 <= low <= high):
            raise ValueError(
                "scales must be a lowest and a highest guidance scale from 0 up, found "
                f"{low:g} and {high:g}"
            )
        if not (isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be a finite number above 0, found {self.lr:g}")
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"out must be a folder to write, found the file {str(self.out)!r}")

    @property
    def command(self) -> str:
        """The command line that has these settings."""
        return command_of(self, "evaluator")


def command_of(settings: Any, command: str) -> str:
    """The ``diffusteer train`` command line that has these settings."""
    words = ["diffusteer", "train", command]
    for item in fields(settings):
        value = getattr(settings, item.name)
        if value != item.default and value is not None:
            values = value if isinstance(value, tuple) else () if value is True else (value,)
            words += [f"--{item.name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)
