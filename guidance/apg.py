"""Adaptive projected guidance (APG).

"Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models",
Seyedmorteza Sadat, Otmar Hilliges and Romann M. Weber, 2024, arXiv 2410.02416.

    d      = cond - uncond
    d      = d + beta d_before                        reverse momentum: beta is negative
    d      = d min(1, r / |d|)                        norm clip
    d_par  = <d, cond> / |cond|^2 cond,  d_perp = d - d_par
    guided = cond + (w - 1) (d_perp + eta d_par)

Works in x0 space, as the paper does: in another space the projection and the norm mean something
else. Norms and dot products are per sample over all other axes.

Deviations: a zero cond has no direction, so that nothing is parallel to it, where the formula
divides by zero. With eta 1 and neither clip nor momentum this is classifier-free guidance at the
same w; other conventions in use, ``uncond + w g`` (diffusers' guider, in the model's own space) and
``cond + w g``, are not. The momentum counts denoiser calls, also those within one step of a second
order solver, and only calls at which the rule acts. The default values are the paper's for SDXL as
they are quoted elsewhere; the paper's own tables were not read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guidance.core.prediction import COND, UNCOND, Step, per_sample, wide
from guidance.core.scaled import ScaledDirection
from guidance.core.schedule import check_number

_DIFFERENCE = "APG: difference with momentum"


def apg(
    uncond: Tensor, cond: Tensor, scale: float | Tensor, eta: float, norm_threshold: float
) -> Tensor:
    """Extrapolate from cond by the clipped difference, mostly by its part orthogonal to cond.

    Args:
        uncond, cond: x0 predictions ``(B, ...)``.
        scale: ``w``; a number, or one per sample ``(B,)``. 1 gives cond.
        eta: weight of the part parallel to cond; 1 keeps it, 0 drops it.
        norm_threshold: ``r``, largest norm of the difference; 0 or infinite for no limit.

    Returns:
        Guided x0 ``(B, ...)`` in the dtype of ``cond``.

    Source: the equations at the top of this file, without the momentum.
    """
    axes = tuple(range(1, cond.ndim))
    c = wide(cond)
    d = c - wide(uncond)
    if norm_threshold > 0:
        d = d * (norm_threshold / d.square().sum(axes, keepdim=True).sqrt()).clamp(max=1.0)
    size = c.square().sum(axes, keepdim=True)
    along = torch.where(size > 0, (d * c).sum(axes, keepdim=True) / size, 0.0)
    update = d + (eta - 1) * along * c
    return (c + (per_sample(scale, c) - 1) * update).to(cond.dtype)


@dataclass(frozen=True, repr=False)
class APG(ScaledDirection):
    """Guidance that stays free of oversaturation at scales of 10 and more.

    Args:
        scale: finite number from 0 up, schedule, or function of the fraction of the run. None reads
            the pipeline's guidance_scale. Neutral at 1, where the unconditional pass is skipped.
        eta: weight from 0 up of the part of the difference that is parallel to cond.
        norm_threshold: largest norm of the difference in x0 space, 0 for no limit. It grows with
            the square root of the number of latent values: the default 15 is for SDXL at 1024 px.
        momentum: from -1 to 1; negative pushes away from earlier differences, 0 forgets them.

    Raises:
        TypeError, ValueError: a setting is no number in its range.
    """

    eta: float = 0.0
    norm_threshold: float = 15.0
    momentum: float = -0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (
            ("eta", 0.0, float("inf")),
            ("norm_threshold", 0.0, float("inf")),
            ("momentum", -1.0, 1.0),
        ):
            number = check_number("APG", name, getattr(self, name), low, high)
            object.__setattr__(self, name, number)

    def combine(self, step: Step, scale: float) -> Tensor:
        cond, uncond = step.x0(step.evaluate(COND)), step.x0(step.evaluate(UNCOND))
        if self.momentum:
            difference = cond - uncond + self.momentum * step.memory.get(_DIFFERENCE, 0.0)
            step.memory[_DIFFERENCE] = difference
            uncond = cond - difference
        return step.from_x0(apg(uncond, cond, scale, self.eta, self.norm_threshold))
