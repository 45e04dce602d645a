"""Settings of the training of a minority classifier, checked as they are made."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from apps.settings import DEFAULT_MODEL, MAX_SEED, check_whole
from apps.train.settings import command_of

DISTANCES = ("mse", "pictures", "lpips")


@dataclass(frozen=True, kw_only=True)
class MinoritySettings:
    """What to train with ``apps.train.minority.run``.

    Attributes:
        data: folder of pictures.
        out: folder of the classifier.
        model: name of a shipped model, folder of a diffusers pipeline, or id on the hub.
        classes: number of levels of rarity.
        level: noise level of the score, see ``guidance.minority_scores``.
        draws: of noise for each score.
        distance: ``mse`` of latents, ``pictures`` for that of decoded pictures, or ``lpips``.
        captions: whether a picture is scored under its caption in place of an empty prompt.
        label: place in ``metadata.jsonl`` of a class within which rarity is told; the model is
            given it where it is conditioned on classes.
        truth: place in ``metadata.jsonl`` of a number to compare scores with.
        pictures: most pictures to use; None for all.
        steps, training_batch, lr: of the training.
        width, depth: of the network.
        seed: of everything random.
        batch_size: pictures scored at once.
        scores: folder where latents and scores are kept; None is ``scores`` beside ``out``.
        work: folder where the training is kept; None is ``out`` with ``.work``.
        device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:1`` and so on.
        dtype: ``auto``, ``float32``, ``float16`` or ``bfloat16``.

    Raises:
        TypeError, ValueError: a setting is of the wrong type or out of its range.
    """

    data: Path
    out: Path
    model: str = DEFAULT_MODEL
    classes: int = 10
    level: float = 0.6
    draws: int = 5
    distance: str = "mse"
    captions: bool = False
    label: str | None = None
    truth: str | None = None
    pictures: int | None = None
    steps: int = 3000
    training_batch: int = 256
    lr: float = 2e-3
    width: int = 48
    depth: int = 3
    seed: int = 0
    batch_size: int = 32
    scores: Path | None = None
    work: Path | None = None
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise ValueError(
                f"distance must be one of {', '.join(DISTANCES)}, found {self.distance!r}"
            )
        check_whole("classes", self.classes, 2, 1000)
        for name in ("draws", "steps", "batch_size"):
            check_whole(name, getattr(self, name), 1)
        check_whole("training_batch", self.training_batch, 2)
        check_whole("width", self.width, 4, 512)
        check_whole("depth", self.depth, 1, 32)
        if self.pictures is not None:
            check_whole("pictures", self.pictures, 2)
        check_whole("seed", self.seed, 0, MAX_SEED // 2_000_000)
        if not 0 <= self.level <= 1:
            raise ValueError(f"level must be a number from 0 to 1, found {self.level:g}")
        if not (isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be a finite number above 0, found {self.lr:g}")
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"out must be a folder to write, found the file {str(self.out)!r}")

    @property
    def command(self) -> str:
        """The command line that has these settings."""
        return command_of(self, "minority")
