"""Self-guided minority sampling: towards what the model itself finds hard to reconstruct.

"Self-Guided Generation of Minority Samples Using Diffusion Models", Soobin Um and Jong Chul Ye,
2024, arXiv 2407.11555.

    h   = x0(x)                         prediction of the step, with the denoiser's graph
    x_s = alpha_s h + sigma_s n         n ~ N(0, I), at one fixed noise level s
    L   = d(h, stop_grad(x0(x_s)))      mean over the draws of n
    g   = grad_x L / max|grad_x L|      image by image
    mean' = mean + w Sigma g            of the next sample, at every n-th step; Sigma its variance

Works in eps space. The shift of the mean is written as a change of the score, which every solver
understands. With ``r = alpha / alpha'`` and ``b = sigma^2 - r^2 sigma'^2``, where ``'`` is the next
level, the ancestral step has the variance ``Sigma = b sigma'^2 / sigma^2``, and a change ``G`` of
the score moves its mean by ``b / r G``. So ``w Sigma g`` is ``G = w r sigma'^2 / sigma^2 g``:

    eps' = eps - w r sigma'^2 / sigma g

**That form is ours.** With the ancestral sampler of fixed small variance it is the paper's update;
deterministic solvers, which have no Sigma, are given the same change of the score.

Deviations: d is the mean squared error, whose direction is that of the authors' L2 norm, instead of
LPIPS, unless you give another; predictions are conditional and classifier-free guidance stays
outside, as in the authors' later comparisons on text-to-image; a gradient of zero stays zero where
the authors' code divides by zero; the last call, with nothing after it, is left alone, and so is
pure noise. An image whose gradient is not finite is left alone, and counted in the report.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from guidance.core.gradient import finite_rows, slope_of
from guidance.core.kinds import Direction
from guidance.core.noise import noise_like, own_generators
from guidance.core.prediction import MIN_SIGNAL, Step, per_sample, wide
from guidance.core.schedule import Scale, check_number, check_scale, scale_at
from guidance.minority import check_distance, minority_score

_NAME = "SelfGuidedMinority"


def self_guided_minority(
    eps: Tensor,
    gradient: Tensor,
    scale: float | Tensor,
    level: tuple[float, float],
    after: tuple[float, float],
) -> Tensor:
    """The noise prediction that moves the ancestral mean by ``w Sigma g``.

    Args:
        eps: noise prediction ``(B, ...)``.
        gradient: ``g``, ``(B, ...)``.
        scale: ``w``; a number, or one per sample ``(B,)``. 0 gives eps.
        level: ``alpha, sigma`` of ``x = alpha x0 + sigma eps``, sigma above 0.
        after: ``alpha', sigma'`` of the next call, alpha' above 0.

    Returns:
        Guided noise prediction ``(B, ...)`` in the dtype of ``eps``.

    Source: the last equation at the top of this file.
    """
    e = wide(eps)
    return (e - per_sample(scale, e) * _share(level, after) * wide(gradient)).to(eps.dtype)


def _share(level: tuple[float, float], after: tuple[float, float]) -> float:
    """``r sigma'^2 / sigma``."""
    return level[0] / after[0] * after[1] ** 2 / level[1]


def max_normalised(gradient: Tensor) -> Tensor:
    """The gradient with a largest absolute value of 1 in every sample; zero stays zero."""
    g = wide(gradient)
    size = g.abs().amax(tuple(range(1, g.ndim)), keepdim=True)
    return torch.where(size > 0, g / size, 0.0)


@dataclass(frozen=True, repr=False)
class SelfGuidedMinority(Direction):
    """Guidance to rare pictures by the model's own errors; nothing is trained.

    At every n-th call one evaluation keeps the denoiser's graph, which takes the memory of training
    (less after ``pipe.unet.requires_grad_(False)``), and each draw is one evaluation more. Sums
    with CFG.

    Args:
        scale: ``w``, finite number from 0 up, schedule, or function of the fraction of the run.
            The paper uses 0.2 to 1 with 250 ancestral steps of pixel models. Neutral at 0.
        level: where in the noise levels of the run, from 0, the cleanest, to 1, predictions are
            noised again.
        every: guide at every n-th call, counted from the end of the run; the last has no effect.
        draws: samples of that noise, from 1 up.
        distance: ``"mse"``, ``"lpips"``, or a function, see ``minority_score``.
        seed: of that noise, whole number from 0 up. An image draws from a generator of its own; the
            pipeline's generators are not used.

    Raises:
        TypeError, ValueError: a setting is not of its kind or range; in a run, a distance that
            cannot be differentiated.
    """

    scale: Scale = 1.0
    level: float = 0.8
    every: int = 5
    draws: int = 1
    distance: Any = "mse"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", check_scale(_NAME, "scale", self.scale))
        object.__setattr__(self, "level", check_number(_NAME, "level", self.level, 0, 1))
        for name, low in (("every", 1), ("draws", 1), ("seed", 0)):
            number = check_number(_NAME, name, getattr(self, name), low, 2**53)
            if number % 1:
                raise ValueError(f"{_NAME}: {name} must be a whole number, found {number:g}")
            object.__setattr__(self, name, int(number))
        check_distance(_NAME, self.distance)

    def active(self, step: Step) -> bool:
        own_generators(step, _NAME, self.seed)
        turn = (step.count - 1 - step.index) % self.every == 0
        if not turn or not super().active(step) or step.alpha < MIN_SIGNAL:
            return False
        # A level that is unknown is no number, and refused by the conversion to x0.
        return self._scale_at(step) != 0 and _share((step.alpha, step.sigma), step.after()) != 0

    def differentiates(self, step: Step) -> bool:
        return True

    def guide(self, step: Step) -> Tensor:
        step.notes[f"{_NAME}: scale"] = scale = self._scale_at(step)
        sample, predicted = step.traced()
        errors, slope = self._error(step, sample, predicted)
        cond = predicted.detach()
        slope, lost = finite_rows(slope)
        step.notes[f"{_NAME}: error"] = errors.tolist()
        step.notes[f"{_NAME}: images without gradient"] = lost
        eps = self_guided_minority(
            step.eps(cond),
            max_normalised(slope),
            scale,
            (step.alpha, step.sigma),
            step.after(),
        )
        return step.from_eps(eps)

    def _error(self, step: Step, sample: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """``L`` of each image, ``(B,)``, and its gradient in the channels of predictions."""
        there, generators = step.at(self.level), own_generators(step, _NAME, self.seed)
        with torch.enable_grad():
            h = replace(step, x=sample).x0(predicted)
            errors = []
            for _ in range(self.draws):
                with torch.no_grad():
                    x = there.alpha * h + there.sigma * noise_like(h, generators)
                    again = replace(there, x=x).x0(there.denoise(x))
                errors.append(minority_score(h, again, self.distance))
            error = torch.stack(errors).mean(0)
            # Normalised away; without it half precision would round small gradients to zero.
            slope = slope_of(error * h[0].numel(), sample, _NAME)
        return error.detach(), slope.narrow(step.channels, 0, h.shape[step.channels])

    def _scale_at(self, step: Step) -> float:
        return scale_at(self.scale, step.fraction, _NAME)
