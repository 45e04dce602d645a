"""A method small enough to follow by hand, and photos for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from personalize.core.artifact import Artifact
from personalize.core.method import Batch, Context, OwnStep, Training


@dataclass(frozen=True)
class Dummy:
    """Predicts ``row[:4] * noisy + row[4:8]``, channel by channel."""

    start_at: float = 0.1
    name: ClassVar[str] = "dummy"
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 0.01}

    def start(self, context: Context) -> Training:
        return DummyTraining(self, context)


class DummyTraining(Training):
    """Keeps the running mean of what it saw, as a state beside the parameters."""

    def __init__(self, settings: Dummy, context: Context) -> None:
        row = torch.randn(1, 32, generator=context.generator) * settings.start_at
        self.parameters = {"row": nn.Parameter(row.to(context.device))}
        self.seen = torch.zeros(1)
        self.context = context
        self.batches: list[Batch] = []

    def loss(self, batch: Batch) -> Tensor:
        self.batches.append(batch)
        row = self.parameters["row"][0]
        scale, shift = row[:4].view(4, 1, 1), row[4:8].view(4, 1, 1)
        return batch.error(scale * batch.noisy + shift)

    def after_step(self, step: int) -> Mapping[str, float]:
        self.seen = 0.5 * self.seen + 0.5 * self.parameters["row"].detach().sum().cpu()
        return {"seen": float(self.seen)}

    def state(self) -> dict[str, Tensor]:
        return {"seen": self.seen}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.seen = tensors["seen"]

    def artifact(self) -> Artifact:
        return Artifact(
            "textual-inversion", {"clip_l": self.parameters["row"]}, {"token": "<dummy>"}
        )


@dataclass(frozen=True)
class Guess(Dummy):
    """Makes its own steps, along random directions."""

    name: ClassVar[str] = "guess"

    def start(self, context: Context) -> Training:
        return GuessTraining(self, context)


class GuessTraining(DummyTraining, OwnStep):
    """Of each step one evaluation on either side of the row."""

    def step(self, batches: Sequence[Batch], lr: float) -> Mapping[str, float]:
        row = self.parameters["row"]
        kept = row.clone()
        direction = torch.randn(row.shape, generator=batches[0].generator())
        losses = []
        try:
            for sign in (1, -1):
                row.copy_(kept + sign * 0.01 * direction)
                mean = torch.cat([self.loss(batch) for batch in batches]).mean()
                losses.append(self.context.mean(mean))
        finally:
            row.copy_(kept)
        row.sub_(lr * (losses[0] - losses[1]) / 0.02 * direction)
        return {"loss": float(losses[0])}


def photos(folder: Path, count: int = 3, masks: bool = False) -> Path:
    """A folder of random photos, 16 or more pixels high and wide."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 256, (16, 16 + 4 * number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        if masks:
            mask = np.zeros(pixels.shape[:2], dtype=np.uint8)
            mask[:8] = 255
            Image.fromarray(mask).save(folder / f"{number}.mask.png")
    return folder
