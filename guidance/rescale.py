"""Rescaled classifier-free guidance.

"Common Diffusion Noise Schedules and Sample Steps are Flawed", Shanchuan Lin, Bingchen Liu,
Jiashi Li and Xiao Yang, 2023, arXiv 2305.08891, section 3.4.

    rescaled = guided std(cond) / std(guided)
    result   = phi rescaled + (1 - phi) guided

Works in the model's own space, as the paper and diffusers' ``rescale_noise_cfg`` do; the standard
deviation (ddof 1) is taken per sample over all other axes.

Deviations: statistics in float32 at least; a guided prediction without spread is left alone, where
the paper's formula divides by zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guidance.core.kinds import Correction
from guidance.core.prediction import COND, Step, wide
from guidance.core.schedule import check_number


def rescale(guided: Tensor, cond: Tensor, phi: float) -> Tensor:
    """Bring the standard deviation of a guided prediction towards that of the conditional one.

    Args:
        guided, cond: predictions ``(B, ...)`` in the model's own space.
        phi: strength from 0 (returns ``guided``) to 1 (standard deviation of ``cond``).

    Returns:
        Prediction ``(B, ...)`` in the dtype of ``guided``.

    Source: eqs. 15 and 16.
    """
    if phi == 0:
        return guided
    axes = tuple(range(1, guided.ndim))
    g = wide(guided)
    spread = g.std(axes, keepdim=True)
    ratio = torch.where(spread > 0, wide(cond).std(axes, keepdim=True) / spread, 1.0)
    return (phi * (g * ratio) + (1 - phi) * g).to(guided.dtype)


@dataclass(frozen=True, repr=False)
class Rescale(Correction):
    """Rescaling after guidance; alone it changes nothing, since the prediction is the cond one.

    Args:
        phi: strength from 0, neutral, to 1; the paper's default 0.7.

    Raises:
        TypeError, ValueError: phi is no number in [0, 1].
    """

    phi: float = 0.7

    def __post_init__(self) -> None:
        object.__setattr__(self, "phi", check_number("Rescale", "phi", self.phi, 0, 1))

    def correct(self, step: Step, guided: Tensor) -> Tensor:
        return rescale(guided, step.evaluate(COND), self.phi)
