"""CFG-Zero*.

"CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching Models", Weichen Fan, Amber Yijia
Zheng, Raymond A. Yeh and Ziwei Liu, 2025, arXiv 2503.18886.

    alpha  = <cond, uncond> / |uncond|^2              optimised scale, per sample
    guided = alpha uncond + w (cond - alpha uncond)
    guided = 0                                        in the first steps ("zero-init")

Works in the model's own space: the velocity of flow models, for which the paper derives it. On
other models the optimised scale is of what they predict, as in diffusers' guider.

Deviations: computed as ``cond + (w - 1) (cond - alpha uncond)``, the same but exact at w = 1. A
zero uncond gives alpha 0 instead of 1e-8 in the denominator, so that alpha uncond does not depend
on the size of uncond. Zero-init raises for models that are not flow models: a velocity of zero
means "stay", but a noise or an x0 of zero is a strong and wrong prediction. The authors' code
counts ``zero_steps`` from 0 for one step; here it is the number of steps, as in diffusers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from guidance.core.prediction import COND, UNCOND, Branch, Step, per_sample, wide
from guidance.core.scaled import ScaledDirection
from guidance.core.schedule import check_number


def cfg_zero_star(uncond: Tensor, cond: Tensor, scale: float | Tensor) -> Tensor:
    """Extrapolate from the projection of cond on uncond instead of from uncond.

    Args:
        uncond, cond: velocities ``(B, ...)``.
        scale: ``w``; a number, or one per sample ``(B,)``. 1 gives cond.

    Returns:
        Guided velocity ``(B, ...)`` in the dtype of ``cond``.

    Source: the equations at the top of this file.
    """
    axes = tuple(range(1, cond.ndim))
    c, u = wide(cond), wide(uncond)
    size = (u * u).sum(axes, keepdim=True)
    alpha = torch.where(size > 0, (c * u).sum(axes, keepdim=True) / size, 0.0)
    return (c + (per_sample(scale, c) - 1) * (c - alpha * u)).to(cond.dtype)


@dataclass(frozen=True, repr=False)
class CFGZeroStar(ScaledDirection):
    """Guidance for flow models with an optimised unconditional scale and zero first steps.

    Args:
        scale: finite number from 0 up, schedule, or function of the fraction of the run. None reads
            the pipeline's guidance_scale. Neutral at 1, where nothing is zeroed either.
        zero_steps: denoiser calls at the start of the run that give zero; the authors' hint is
            4 % of the run, their default 1. They cost no unconditional pass. Use 0 for models that
            are not flow models, and for image-to-image, which does not start from noise.

    Raises:
        TypeError, ValueError: the scale is no finite number from 0 up, zero_steps no whole one; in
            a run, zero_steps above 0 with a model that is no flow model.
    """

    zero_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = check_number("CFGZeroStar", "zero_steps", self.zero_steps)
        if not steps.is_integer():
            raise ValueError(f"CFGZeroStar: zero_steps must be a whole number, found {steps:g}")
        object.__setattr__(self, "zero_steps", int(steps))

    def needs(self, step: Step) -> Iterable[Branch]:
        return () if step.index < self.zero_steps else super().needs(step)

    def combine(self, step: Step, scale: float) -> Tensor:
        if self.zero_steps and step.prediction_type != "flow_prediction":
            raise ValueError(
                f"CFGZeroStar: zero_steps={self.zero_steps} needs a flow model, found one that "
                f"predicts {step.prediction_type!r}; write CFGZeroStar(zero_steps=0)"
            )
        cond = step.evaluate(COND)
        if step.index < self.zero_steps:
            return torch.zeros_like(cond)
        return cfg_zero_star(step.evaluate(UNCOND), cond, scale)
