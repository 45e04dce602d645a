"""What rules ask of networks and functions that judge a prediction of the clean image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from guidance.core.prediction import Step

Prompts = Sequence[str | int] | None
"""Prompt or class label of each image; None where the pipeline was given embeddings only."""


@runtime_checkable
class Evaluator(Protocol):
    """Scores predictions of x0; a rule that takes one also takes such a function."""

    def score(self, x0: Tensor, step: Step, prompts: Prompts) -> Tensor:
        """How good each image is, ``(B,)``; larger is better, on any scale.

        Args:
            x0: prediction ``(B, ...)`` in at least float32, in the space of the model.
            step: the step it was made at; ``step.memory`` is new for every run.
            prompts: prompt or class label of each image.
        """
        ...


@runtime_checkable
class Classifier(Protocol):
    """Tells the classes of predictions of x0.

    Attributes:
        classes: their names, in the order of the logits.
    """

    classes: tuple[str, ...]

    def logits(self, x0: Tensor, step: Step) -> Tensor:
        """Unnormalised log probabilities ``(B, classes)`` of predictions ``(B, ...)``."""
        ...
