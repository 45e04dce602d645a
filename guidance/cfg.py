"""Classifier-free guidance.

"Classifier-Free Diffusion Guidance", Jonathan Ho and Tim Salimans, 2022, arXiv 2207.12598.

    guided = uncond + w (cond - uncond)

Works in the model's own space; being affine, it is the same update in every space (eps, v, x0).

A pipeline that does more than that, QwenImage's and Lumina2's renormalisation to the size of cond
say, gets its own formula.

Deviations: the paper writes ``(1 + w') cond - w' uncond``; ``w = w' + 1`` here, as in diffusers, so
that 1 means no guidance. Computed in the prediction's own dtype and in the order of diffusers'
pipelines, to be bit-equal to them; other methods compute in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from guidance.core.prediction import COND, UNCOND, Step, per_sample
from guidance.core.scaled import ScaledDirection


def cfg(uncond: Tensor, cond: Tensor, scale: float | Tensor) -> Tensor:
    """Extrapolate from the unconditional through the conditional prediction.

    Args:
        uncond, cond: predictions ``(B, ...)`` in any one space.
        scale: ``w``; a number, or one per sample ``(B,)``. 1 gives cond, 0 gives uncond.

    Returns:
        Guided prediction ``(B, ...)`` in the dtype of ``cond``.

    Source: eq. 6 with ``w = w' + 1``.
    """
    return (uncond + per_sample(scale, cond) * (cond - uncond)).to(cond.dtype)


@dataclass(frozen=True, repr=False)
class CFG(ScaledDirection):
    """Classifier-free guidance, bit-equal to the pipeline's own at the same scale.

    Args:
        scale: finite number from 0 up, schedule, or function of the fraction of the run. None reads
            the pipeline's guidance_scale. Neutral at 1, where the unconditional pass is skipped.

    Raises:
        TypeError, ValueError: the scale is no finite number from 0 up; push away from a prompt by
            a negative prompt instead of a negative scale.
    """

    def combine(self, step: Step, scale: float) -> Tensor:
        uncond, cond = step.evaluate(UNCOND), step.evaluate(COND)
        return (step.native or cfg)(uncond, cond, scale)
