"""Classifier-free guidance.

"Classifier-Free Diffusion Guidance", Jonathan Ho and Tim Salimans, 2022, arXiv 2207.12598.

    guided = uncond + w (cond - uncond)

Works in the model's own space; being affine, it is the same update in every space (eps, v, x0).

Deviations: the paper writes ``(1 + w') cond - w' uncond``; ``w = w' + 1`` here, as in diffusers, so
that 1 means no guidance. Computed in the prediction's own dtype and in the order of diffusers'
pipelines, to be bit-equal to them; other methods compute in float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from guidance.core.prediction import COND, UNCOND, Branch, Step
from guidance.core.rule import Direction
from guidance.core.schedule import Scale, check_scale, scale_at


def cfg(uncond: Tensor, cond: Tensor, scale: float | Tensor) -> Tensor:
    """Extrapolate from the unconditional through the conditional prediction.

    Args:
        uncond, cond: predictions ``(B, ...)`` in any one space.
        scale: ``w``; a number, or one per sample ``(B,)``. 1 gives cond, 0 gives uncond.

    Returns:
        Guided prediction ``(B, ...)`` in the dtype of ``cond``.

    Source: eq. 6 with ``w = w' + 1``.
    """
    if isinstance(scale, Tensor) and scale.ndim == 1:
        scale = scale.view(-1, *[1] * (cond.ndim - 1))
    return (uncond + scale * (cond - uncond)).to(cond.dtype)


def _is_neutral(scale: float) -> bool:
    """Whether a scale is 1 up to rounding, as schedules give it."""
    return abs(scale - 1) < 1e-6


@dataclass(frozen=True, repr=False)
class CFG(Direction):
    """Classifier-free guidance, bit-equal to the pipeline's own at the same scale.

    Args:
        scale: finite number from 0 up, schedule, or function of the fraction of the run. None reads
            the pipeline's guidance_scale. Neutral at 1, where the unconditional pass is skipped.

    Raises:
        TypeError, ValueError: the scale is no finite number from 0 up; push away from a prompt by
            a negative prompt instead of a negative scale.
    """

    scale: Scale | None = None
    owns_uncond: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.scale is not None:
            object.__setattr__(self, "scale", check_scale("CFG", "scale", self.scale))

    def _scale_at(self, step: Step) -> float:
        scale = step.guidance_scale if self.scale is None else self.scale
        if scale is None:
            raise ValueError(
                "CFG: no scale given and no pipeline to read guidance_scale from; write CFG(6.0)"
            )
        return scale_at(scale, step.fraction, "CFG")

    def needs(self, step: Step) -> Iterable[Branch]:
        return () if _is_neutral(self._scale_at(step)) else (UNCOND,)

    def guide(self, step: Step) -> Tensor:
        scale = self._scale_at(step)
        step.notes["scale"] = scale
        if _is_neutral(scale):
            return step.evaluate(COND)
        return cfg(step.evaluate(UNCOND), step.evaluate(COND), scale)
