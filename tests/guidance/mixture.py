"""A mixture of Gaussians whose predictions, classes and scores are known at every noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guidance import COND, UNCOND, Step, limited, prompt
from guidance.core.classes import class_of
from guidance.core.prediction import Branch

LEVELS = ((0.28, 0.96), (0.6, 0.8), (0.96, 0.28))
NAMES = ("fox", "owl", "hat", "map", "bell")


@dataclass(frozen=True)
class Mixture:
    """Class k of x0 is normal around ``means[k]`` with variance ``spread[k]``; all in float64."""

    means: Tensor
    spread: Tensor
    priors: Tensor

    @classmethod
    def of(cls, classes: int, size: int = 4) -> Mixture:
        generator = torch.Generator().manual_seed(classes)
        kind = {"generator": generator, "dtype": torch.float64}
        means, spread, priors = (
            torch.randn(classes, size, **kind),  # type: ignore[call-overload]
            0.2 + torch.rand(classes, **kind),  # type: ignore[call-overload]
            0.1 + torch.rand(classes, **kind),  # type: ignore[call-overload]
        )
        return cls(means, spread, priors / priors.sum())

    def logits(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """``log p(k) p(x | k)``, ``(B, K)``."""
        variance = alpha**2 * self.spread + sigma**2
        apart = (x[:, None] - alpha * self.means).square().sum(2)
        return self.priors.log() - apart / 2 / variance - x.shape[1] / 2 * variance.log()

    def eps(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """Noise prediction of every class, ``(K, B, size)``."""
        variance = (alpha**2 * self.spread + sigma**2)[:, None, None]
        return sigma * (x - alpha * self.means[:, None]) / variance

    def mixed(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """Noise prediction without a class, ``(B, size)``."""
        p = torch.softmax(self.logits(x, alpha, sigma), 1)
        return torch.einsum("bk,kbd->bd", p, self.eps(x, alpha, sigma))

    def step(
        self,
        x: Tensor,
        alpha: float,
        sigma: float,
        targets: Sequence[int],
        kind: str = "epsilon",
    ) -> Step:
        """A step of a model that knows all this, asked for one class for each image."""
        if kind == "flow_prediction":
            alpha = 1 - sigma
        every = self.eps(x, alpha, sigma)
        cond = every[torch.tensor(targets), torch.arange(len(x))]

        def evaluate(branch: Branch) -> Tensor:
            if isinstance(branch, limited):
                live = torch.tensor(branch.live)[:, None]
                return torch.where(live, evaluate(branch.branch), evaluate(COND))
            if branch == COND:
                return step.from_eps(cond)
            if branch == UNCOND:
                return step.from_eps(self.mixed(x, alpha, sigma))
            assert isinstance(branch, prompt)
            assert callable(branch.text)
            said = [class_of(branch.text(text), NAMES) for text in step.prompts or ()]
            return step.from_eps(every[torch.tensor(said), torch.arange(len(x))])

        step = Step(
            index=0,
            count=10,
            timestep=1.0,
            alpha=alpha,
            sigma=sigma,
            x=x,
            prediction_type=kind,
            evaluator=evaluate,
            prompts=tuple(f"a {NAMES[k]}" for k in targets),
        )
        return step
