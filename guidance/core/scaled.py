"""Directions that extrapolate from the unconditional prediction by a scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from guidance.core.kinds import Direction
from guidance.core.prediction import COND, UNCOND, Branch, Step
from guidance.core.schedule import Scale, check_scale, scale_at


@dataclass(frozen=True, repr=False)
class ScaledDirection(Direction):
    """Base of the methods whose scale is neutral at 1, where no unconditional pass is made.

    Args:
        scale: finite number from 0 up, schedule, or function of the fraction of the run. None reads
            the pipeline's guidance_scale.

    Raises:
        TypeError, ValueError: the scale is no finite number from 0 up; push away from a prompt by
            a negative prompt instead of a negative scale.
    """

    scale: Scale | None = None
    owns_uncond: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.scale is not None:
            scale = check_scale(type(self).__name__, "scale", self.scale)
            object.__setattr__(self, "scale", scale)

    def combine(self, step: Step, scale: float) -> Tensor:
        """Guided prediction in the model's own space at a scale that is not neutral."""
        raise NotImplementedError

    def needs(self, step: Step) -> Iterable[Branch]:
        return () if _is_neutral(self._scale_at(step)) else (UNCOND,)

    def guide(self, step: Step) -> Tensor:
        scale = self._scale_at(step)
        step.notes["scale"] = scale
        return step.evaluate(COND) if _is_neutral(scale) else self.combine(step, scale)

    def _scale_at(self, step: Step) -> float:
        return guidance_scale(type(self).__name__, self.scale, step)


def guidance_scale(name: str, scale: Scale | None, step: Step) -> float:
    """``w`` at a step: the method's own, or the pipeline's where that is None.

    Raises:
        ValueError: neither is given.
    """
    scale = step.guidance_scale if scale is None else scale
    if scale is None:
        raise ValueError(
            f"{name}: no scale given and no pipeline to read guidance_scale from; give it one, "
            f"{name}(scale=6.0) say"
        )
    return scale_at(scale, step.fraction, name)


def _is_neutral(scale: float) -> bool:
    """Whether a scale is 1 up to rounding, as schedules give it."""
    return abs(scale - 1) < 1e-6
