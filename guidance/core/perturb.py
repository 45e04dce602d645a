"""Perturbations: changes of a denoiser's inner work on some rows of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor, nn

from guidance.core.family import Family
from guidance.core.kinds import Direction
from guidance.core.prediction import COND, Branch, Step, per_sample, perturbed, wide
from guidance.core.schedule import Scale, check_scale, scale_at


@dataclass(frozen=True)
class Call:
    """The denoiser call that a perturbation works on.

    Attributes:
        rows: rows of the batch to perturb.
        total: rows in the batch.
        text_tokens: text tokens in the model's sequence, 0 if text is not in the sequence.
        size: spatial size of the denoiser's sample, ``(height, width)`` for 4-D, ``()`` for tokens.
    """

    rows: slice
    total: int
    text_tokens: int
    size: tuple[int, ...]

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width of a picture, None for tokens and videos."""
        if len(self.size) == 2 or self.size[:1] == (1,):
            return self.size[-2], self.size[-1]
        return None

    def rows_of(self, tensor: Tensor, what: str) -> slice:
        """The rows to perturb in a tensor of this call, in which a row may stand for many frames.

        Raises:
            ValueError: the tensor does not hold the same number of rows for each of the call's.
        """
        if len(tensor) % self.total:
            raise ValueError(
                f"{what} works on {len(tensor)} rows where the denoiser was given {self.total}, so "
                "that the rows to perturb cannot be told apart; use batching='sequential' and one "
                "image at a time, or joint_mode='row' of SoftPAG"
            )
        each = len(tensor) // self.total
        return slice(self.rows.start * each, self.rows.stop * each)


@dataclass(frozen=True)
class Perturbation:
    """Base of the perturbations: immutable, hashable settings."""

    def check(self, model: nn.Module, family: Family) -> tuple[str, ...]:
        """Names of what is perturbed; raises ValueError where the settings do not fit the model."""
        return ()

    def applied(self, model: nn.Module, call: Call) -> AbstractContextManager[None]:
        """Context in which the model treats the rows of the call as perturbed."""
        raise NotImplementedError


def push_away(cond: Tensor, worse: Tensor, scale: float | Tensor) -> Tensor:
    """``cond + s (cond - worse)`` in the dtype of cond, ``(B, ...)``; 0 gives cond.

    A scale of its own for each sample is ``(B,)``.
    """
    base = wide(cond)
    return (base + per_sample(scale, base) * (base - wide(worse))).to(cond.dtype)


@dataclass(frozen=True, repr=False)
class PerturbedDirection(Direction):
    """Base of the methods that push away from a perturbed conditional prediction.

    Args:
        scale: ``s`` of ``cond + s (cond - perturbed)``: finite number from 0 up, schedule, or
            function of the fraction of the run. Neutral at 0, where nothing is evaluated.

    Raises:
        TypeError, ValueError: the scale is no finite number from 0 up.
    """

    scale: Scale = 3.0

    def __post_init__(self) -> None:
        scale = check_scale(type(self).__name__, "scale", self.scale)
        object.__setattr__(self, "scale", scale)

    @property
    def perturbation(self) -> Perturbation | None:
        """What is done to the denoiser, None where the settings leave it as it is."""
        raise NotImplementedError

    def check(self, model: nn.Module, family: Family) -> tuple[str, ...]:
        return () if self.perturbation is None else self.perturbation.check(model, family)

    def needs(self, step: Step) -> Iterable[Branch]:
        return (perturbed(self.perturbation),) if self._scale_at(step) else ()

    def guide(self, step: Step) -> Tensor:
        scale, name = self._scale_at(step), type(self).__name__
        step.notes[f"{name}: scale"] = scale
        cond = step.evaluate(COND)
        return (
            push_away(cond, step.evaluate(perturbed(self.perturbation)), scale) if scale else cond
        )

    def _scale_at(self, step: Step) -> float:
        if self.perturbation is None:
            return 0.0
        return scale_at(self.scale, step.fraction, type(self).__name__)
