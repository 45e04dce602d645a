"""Condition-annealed sampling (CADS): more diverse images by a noisy condition at first.

"CADS: Unleashing the Diversity of Diffusion Models through Condition-Annealed Sampling",
Seyedmorteza Sadat, Jakob Buhmann, Derek Bradley, Otmar Hilliges and Romann M. Weber, 2023,
arXiv 2310.17347.

    gamma   = 1 for t <= tau1, 0 for t >= tau2, a straight line between      t from 1 down to 0
    noisy   = sqrt(gamma) y + s sqrt(1 - gamma) n                            n ~ N(0, I), each step
    scaled  = (noisy - mean(noisy)) / std(noisy) std(y) + mean(y)
    y'      = psi scaled + (1 - psi) noisy

Works on the embedded prompt y of the conditional predictions, before they are made.

From the extension github.com/v0xie/sd-webui-cads instead of the paper: t is the share of the run
that is left, and the statistics are over all tokens of a prompt. Deviations from it: the statistics
are per image, where it takes them over the batch; the unconditional embedding stays as it is, as in
the paper; each image has noise of its own, so that it does not depend on what it shares a batch
with. An embedding without spread stays at its mean, where the formula divides by zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guidance.core.family import Family
from guidance.core.kinds import Conditioning
from guidance.core.noise import own_generators
from guidance.core.prediction import Step, wide
from guidance.core.schedule import check_number


def annealing(t: float, tau1: float, tau2: float) -> float:
    """``gamma``, the share of the condition at time t from 1, noise, down to 0."""
    if t <= tau1:
        return 1.0
    return 0.0 if t >= tau2 else (tau2 - t) / (tau2 - tau1)


def cads(value: Tensor, noise: Tensor, gamma: float, strength: float, mix: float) -> Tensor:
    """Replace a part of an embedding by noise, within its mean and standard deviation.

    Args:
        value: embeddings ``y``, ``(B, tokens, width)`` or ``(B, width)``.
        noise: ``n``, of the same shape.
        gamma: share of the condition, from 0 to 1; 1 gives ``value``.
        strength: ``s``, size of the noise.
        mix: ``psi`` from 0, noisy as it is, to 1, mean and standard deviation of ``value``.

    Returns:
        Embeddings in the dtype of ``value``.

    Source: the equations at the top of this file.
    """
    if gamma == 1:
        return value
    axes = tuple(range(1, value.ndim))
    y = wide(value)
    noisy = gamma**0.5 * y + strength * (1 - gamma) ** 0.5 * noise
    centred = noisy - noisy.mean(axes, keepdim=True)
    spread = centred.std(axes, keepdim=True)
    ratio = torch.where(spread > 0, y.std(axes, keepdim=True) / spread, 0.0)
    scaled = centred * ratio + y.mean(axes, keepdim=True)
    return (mix * scaled + (1 - mix) * noisy).to(value.dtype)


@dataclass(frozen=True, repr=False)
class CADS(Conditioning):
    """Noise on the embedded prompt, most at the start of the run; add it to CFG.

    Defaults are those of the extension. Neutral where ``tau1`` is 1.

    Args:
        tau1, tau2: shares of the run that is left, from 0 to 1 and not falling: up to tau1 the
            condition is clean, from tau2 it is noise.
        strength: size of the noise, from 0 up.
        mix: from 0 to 1, how far mean and standard deviation are those of the clean condition.
        seed: whole number from 0 up. An image draws from a generator of its own, seeded by this
            and by the noise that the image starts from; the pipeline's generators are not used.

    Raises:
        TypeError, ValueError: a setting is no number in its range; on entering a guide block, a
            model that is not given the embedded prompts in one tensor.
    """

    tau1: float = 0.6
    tau2: float = 0.9
    strength: float = 0.25
    mix: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {"tau1": 1.0, "tau2": 1.0, "strength": float("inf"), "mix": 1.0, "seed": 2.0**53}
        for name, high in limits.items():
            number = check_number("CADS", name, getattr(self, name), 0, high)
            object.__setattr__(self, name, number)
        if self.tau1 > self.tau2:
            raise ValueError(
                f"CADS: tau1 must not be above tau2, found {self.tau1:g} and {self.tau2:g}; swap "
                "the two numbers"
            )
        if self.seed != int(self.seed):
            raise ValueError(f"CADS: seed must be a whole number, found {self.seed:g}")
        object.__setattr__(self, "seed", int(self.seed))

    def check(self, model: nn.Module, family: Family) -> tuple[str, ...]:
        if not family.text:
            raise ValueError(
                f"CADS: it needs the embedded prompts in one tensor, and {type(model).__name__} is "
                "given none; leave the rule out"
            )
        return ()

    @property
    def conditions(self) -> bool:
        return self.tau1 < 1

    def active(self, step: Step) -> bool:
        # Called at every step: the first sees the noise that images start from, bit for bit.
        own_generators(step, "CADS", self.seed)
        return super().active(step)

    def condition(self, step: Step, name: str, value: Tensor) -> Tensor:
        gamma = annealing(1 - step.fraction, self.tau1, self.tau2)
        if gamma == 1:
            return value
        step.notes["CADS: gamma"] = gamma
        generators = own_generators(step, "CADS", self.seed)
        value = value.expand(len(generators), *value.shape[1:])
        noise = [torch.randn(value.shape[1:], generator=generator) for generator in generators]
        return cads(value, torch.stack(noise).to(value.device), gamma, self.strength, self.mix)
