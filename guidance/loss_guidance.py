"""Loss guidance: down the gradient of any loss of the predicted clean image.

The forward part of "Universal Guidance for Diffusion Models", Arpit Bansal, Hong-Min Chu, Avi
Schwarzschild, Soumyadip Sengupta, Micah Goldblum, Jonas Geiping and Tom Goldstein, 2023,
arXiv 2302.07121, algorithm 1.

    x0   = (x - sigma eps) / alpha
    G    = grad_x L(x0)
    eps' = eps + s sigma G

Works in eps space; ``s G`` is the same change of the score in all of them. Networks trained on
clean images can stand in the loss, which decodes x0 itself where the model has latents.

Deviations: by default the noise that the model predicts is held fixed, so that
``G = grad_x0 L(x0) / alpha``; ``exact`` differentiates through the denoiser as the paper does. Unit
length of G, for scales that mean the same in every loss, is the idea of "FreeDoM: Training-Free
Energy-Guided Conditional Diffusion Model", Jiwen Yu et al., 2023, arXiv 2303.09833, without its
constants. The backward part and the repeated steps of the paper are left out. Classifier-free
guidance stays outside: the change is the same for uncond and cond, read at cond. Nothing is done
below alpha = 0.001; an image whose gradient is not finite is left alone, and counted in the report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from guidance.core.gradient import finite_rows, gradient
from guidance.core.kinds import Direction
from guidance.core.prediction import COND, MIN_SIGNAL, Step, per_sample, wide
from guidance.core.schedule import Scale, check_scale, scale_at
from guidance.evaluators.protocol import Evaluator

_NAME = "LossGuidance"


def loss_guidance(eps: Tensor, gradient: Tensor, scale: float | Tensor, sigma: float) -> Tensor:
    """The noise prediction of ``p(x) exp(-s L)``.

    Args:
        eps: noise prediction ``(B, ...)``.
        gradient: ``G``, of the loss with respect to the noisy sample, ``(B, ...)``.
        scale: ``s``; a number, or one per sample ``(B,)``. 0 gives eps.
        sigma: noise level of ``x = alpha x0 + sigma eps``.

    Returns:
        Guided noise prediction ``(B, ...)`` in the dtype of ``eps``.

    Source: the equations at the top of this file.
    """
    e = wide(eps)
    return (e + sigma * per_sample(scale, e) * wide(gradient)).to(eps.dtype)


def unit(gradient: Tensor) -> Tensor:
    """The gradient with a root mean square of 1 in every sample; zero stays zero, ``(B, ...)``."""
    g = wide(gradient)
    # By the largest value first, so that squares of very small and large gradients stay numbers.
    g = g / g.abs().amax(tuple(range(1, g.ndim)), keepdim=True).clamp(min=torch.finfo(g.dtype).tiny)
    size = g.square().mean(tuple(range(1, g.ndim)), keepdim=True).sqrt()
    return torch.where(size > 0, g / size, 0.0)


@dataclass(frozen=True, repr=False)
class LossGuidance(Direction):
    """Guidance by a differentiable loss of x0: a colour, a layout, a style, a reward.

    Costs no evaluation of the denoiser, and memory for the loss's graph alone; if exact, one
    evaluation with the denoiser's graph, smaller after ``pipe.unet.requires_grad_(False)``.

    Args:
        scale: ``s``, finite number from 0 up, schedule, or function of the fraction of the run.
            Its size depends on the loss: published ones go from 2 to 20000. Neutral at 0.
        loss: function ``loss(x0, step, prompts)`` of x0 ``(B, ...)`` in float32, which returns
            ``(B,)``, lower for better; or a ``guidance.evaluators.Evaluator``, whose score is to
            rise. Keep square roots away from zero: their gradient is not a number there.
        normalised: whether every image's gradient has a root mean square of 1; scales of about
            0.1 to 1 then suit most losses.
        exact: whether to differentiate through the denoiser.

    Raises:
        TypeError, ValueError: a setting is not of its kind or range; in a run, a loss that cannot
            be differentiated or does not return one number for each image.
    """

    scale: Scale
    loss: Any
    normalised: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", check_scale(_NAME, "scale", self.scale))
        if not isinstance(self.loss, Evaluator) and not callable(self.loss):
            raise TypeError(
                f"{_NAME}: loss must be a function of x0, the step and the prompts, or an "
                f"Evaluator, found {type(self.loss).__name__}"
            )
        for name in ("normalised", "exact"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(
                    f"{_NAME}: {name} must be True or False, found {getattr(self, name)!r}"
                )

    def guide(self, step: Step) -> Tensor:
        cond, scale = step.evaluate(COND), scale_at(self.scale, step.fraction, _NAME)
        step.notes[f"{_NAME}: scale"] = scale
        if scale == 0 or step.alpha < MIN_SIGNAL:
            return cond
        loss = self._loss(step)
        if self.exact:
            losses, slope = gradient(lambda x: loss(_x0(step, x)), step.noisy(cond), _NAME)
        else:
            losses, slope = gradient(loss, step.x0(cond), _NAME)
            slope = slope / step.alpha
        slope, lost = finite_rows(slope)
        step.notes[f"{_NAME}: loss"] = losses.tolist()
        step.notes[f"{_NAME}: images without gradient"] = lost
        slope = unit(slope) if self.normalised else slope
        return step.from_eps(loss_guidance(step.eps(cond), slope, scale, step.sigma))

    def _loss(self, step: Step) -> Callable[[Tensor], Tensor]:
        if isinstance(self.loss, Evaluator):
            score = self.loss.score
            return lambda x0: -score(x0, step, step.prompts)
        return lambda x0: self.loss(x0, step, step.prompts)


def _x0(step: Step, x: Tensor) -> Tensor:
    """The model's x0 of another noisy sample."""
    return replace(step, x=x).x0(step.denoise(x))
