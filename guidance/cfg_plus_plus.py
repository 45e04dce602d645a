"""CFG++.

"CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models", Hyungjin Chung,
Jeongsol Kim, Geon Yeong Park, Hyelin Nam and Jong Chul Ye, 2024, arXiv 2406.08070.

    eps_lambda = eps_u + lambda (eps_c - eps_u)
    x0         = (x - sigma eps_lambda) / alpha
    x'         = alpha' x0 + sigma' eps_u             renoised with eps_u, where CFG has eps_lambda

Implemented through an identity, so that the sampler need not change: with ``x = alpha x0 + sigma
eps``, one step is the DDIM step of classifier-free guidance at

    w = lambda alpha' sigma / (alpha' sigma - alpha sigma')

which grows with the number of steps, and is lambda where the step ends without noise (sigma' = 0)
or starts from nothing else (alpha = 0). On Stable Diffusion's noise, 50 DDIM steps at lambda 0.6
are CFG from 5.5 over 9.5 to 0.6. The identity holds for variance preserving and for flow models
and, as guidance is affine, in the model's own space.

Deviations: the identity needs a deterministic first order solver: DDIM with eta 0, Euler, or flow
Euler; others raise, although the authors derive DPM++ 2M too. A correction in the same chain sees
the prediction at w, not at lambda. The default lambda is that of the authors' example.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from guidance.cfg import cfg
from guidance.core.kinds import Direction
from guidance.core.prediction import COND, UNCOND, Branch, Step
from guidance.core.schedule import Scale, check_scale, scale_at


def equivalent_scale(
    lam: float, alpha: float, sigma: float, alpha_next: float, sigma_next: float
) -> float:
    """Scale at which a DDIM step of classifier-free guidance is the CFG++ step.

    Args:
        lam: lambda of CFG++, from 0 to 1.
        alpha, sigma: noise level of the input ``x = alpha x0 + sigma eps``.
        alpha_next, sigma_next: noise level after the step, of another ``sigma / alpha``.

    Returns:
        Scale ``w``, lambda itself where ``sigma_next`` is 0.

    Source: the equations at the top of this file, solved for w.
    """
    return lam * alpha_next * sigma / (alpha_next * sigma - alpha * sigma_next)


@dataclass(frozen=True, repr=False)
class CFGPlusPlus(Direction):
    """Guidance that interpolates x0 and renoises with the unconditional noise.

    Args:
        scale: lambda from 0 to 1, schedule, or function of the fraction of the run. 0 is the
            unconditional pipeline; no value gives the conditional one.

    Raises:
        TypeError, ValueError: the scale is no number in [0, 1]; in a run, a scheduler that is no
            deterministic first order one, named in the message.
    """

    scale: Scale = 0.6
    owns_uncond: ClassVar[bool] = True

    def __post_init__(self) -> None:
        scale = check_scale("CFGPlusPlus", "scale", self.scale, 1.0)
        object.__setattr__(self, "scale", scale)

    def _equivalent(self, step: Step) -> float:
        lam = scale_at(self.scale, step.fraction, "CFGPlusPlus", 1.0)
        alpha, sigma = step.next_level()
        if alpha * step.sigma <= step.alpha * sigma:
            raise ValueError(
                f"CFGPlusPlus: noise must fall at every step, found (alpha, sigma) from "
                f"({step.alpha:g}, {step.sigma:g}) to ({alpha:g}, {sigma:g}) at call {step.index}"
            )
        step.notes["lambda"] = lam
        return equivalent_scale(lam, step.alpha, step.sigma, alpha, sigma)

    def needs(self, step: Step) -> Iterable[Branch]:
        self._equivalent(step)  # refuses an unfit scheduler before any work
        return (UNCOND,)

    def guide(self, step: Step) -> Tensor:
        scale = self._equivalent(step)
        step.notes["scale"] = scale
        return cfg(step.evaluate(UNCOND), step.evaluate(COND), scale)
