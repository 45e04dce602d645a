"""Steadiness over a run: how far a prediction is from the one that was chosen before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guidance.core.config import Part
from guidance.core.prediction import Step
from guidance.evaluators.protocol import Prompts

CHOSEN = "x0 that was chosen last"
"""Where in ``step.memory`` a rule that chooses by evaluators leaves x0 of its choice."""


@dataclass(frozen=True)
class Agreement(Part):
    """Minus the root mean square distance to the x0 chosen last, 0 for the first of a run."""

    def score(self, x0: Tensor, step: Step, prompts: Prompts) -> Tensor:
        """Minus the distance, ``(B,)``."""
        last: Any = step.memory.get(CHOSEN)
        if last is None:
            return torch.zeros(len(x0), device=x0.device)
        return -(x0 - last).flatten(1).square().mean(1).sqrt()
