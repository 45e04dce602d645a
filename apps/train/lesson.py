"""What an evaluator is to learn: from the pictures before a model is loaded, and of it after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from apps.train import kinds
from apps.train.data import Data, classes_of, read_data
from apps.train.kinds import Kind, numbered
from apps.train.records import Records
from apps.train.settings import EvaluatorSettings
from guidance.core.target import Target
from guidance.core.text import text_features
from guidance.evaluators import (
    EvaluatorConfig,
    NetworkSettings,
    denoiser_of,
    space_of,
    text_encoder_of,
)

WIDEST = 16
"""Longest side of latents that a network sees as they are, whatever their size."""


@dataclass(frozen=True)
class Lesson:
    """What is known before the model is: pictures, and what is to be learned of them."""

    data: Data
    labels: list[str | None]
    classes: tuple[str, ...] | None


def read_lesson(settings: EvaluatorSettings) -> Lesson:
    """What can be checked before anything is loaded."""
    data = read_data(settings.data, settings.pictures)
    if settings.kind in ("alignment", "reward"):
        data.texts  # noqa: B018  raises where there are none
    labels: list[str | None] = []
    classes = None
    if settings.kind == "classifier":
        labels = data.labels(settings.label)
        classes = classes_of(labels, data.held_out, settings.label)
    return Lesson(data, labels, classes)


def task_of(
    settings: EvaluatorSettings, pipe: Any, seen: Records, lesson: Lesson, target: Tensor | None
) -> tuple[Kind, EvaluatorConfig]:
    """What is to be learned, and the evaluator that is to learn it."""
    everything = torch.arange(len(seen))
    kind: Kind
    text = None
    if settings.kind in ("alignment", "reward"):
        texts, caption = numbered(lesson.data.texts)
        text = text_features(pipe, texts).cpu()
    if settings.kind == "alignment":
        assert text is not None
        kind = kinds.Alignment(seen, everything, caption, text, outputs=settings.width)
    elif settings.kind == "reward":
        assert text is not None and target is not None
        spread, mean = torch.std_mean(target[lesson.data.held_out :])
        if not spread > 0:
            raise ValueError("the scorer gives every picture the same score; use another one")
        kind = kinds.Reward(seen, everything, (target - mean) / spread, caption, text)
    elif settings.kind == "discriminator":
        kind = kinds.Discriminator(seen, everything, settings.scales)
    else:
        assert lesson.classes is not None
        numbers = {name: number for number, name in enumerate(lesson.classes)}
        label = torch.tensor([numbers.get(name or "", -1) for name in lesson.labels])
        kind = kinds.Classifier(
            seen, everything[label[seen.row] >= 0], label, outputs=len(lesson.classes)
        )
    channels, height, width = seen.shape
    network = NetworkSettings(
        channels=channels,
        outputs=kind.outputs,
        size=None if max(height, width) <= WIDEST else (height, width),
        text=0 if text is None else text.shape[1],
        width=settings.width,
        depth=settings.depth,
    )
    denoiser = next(iter(Target(pipe).denoisers))
    config = EvaluatorConfig(
        settings.kind,
        network,
        space_of(pipe),
        denoiser=denoiser_of(denoiser) if settings.kind == "discriminator" else None,
        text_encoder=None if text is None else text_encoder_of(pipe),
        classes=lesson.classes,
    )
    return kind, config
