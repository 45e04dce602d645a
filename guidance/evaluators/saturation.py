"""Penalties of too much guidance, which drives predictions of x0 out of the range of data."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from guidance.core.config import Part
from guidance.core.prediction import Step, wide
from guidance.core.schedule import check_number
from guidance.evaluators.protocol import Prompts


@dataclass(frozen=True)
class Saturation(Part):
    """Minus the standard deviation of x0, as far as it is above that of data.

    Args:
        reference: standard deviation of data, from 0 up; 1 for the latents of most models.

    Raises:
        TypeError, ValueError: the reference is no finite number from 0 up.
    """

    reference: float = 1.0

    def __post_init__(self) -> None:
        reference = check_number("Saturation", "reference", self.reference)
        object.__setattr__(self, "reference", reference)

    def score(self, x0: Tensor, step: Step, prompts: Prompts) -> Tensor:
        """``-max(std(x0) - reference, 0)``, ``(B,)``."""
        return -(wide(x0).flatten(1).std(1) - self.reference).clamp(min=0)


@dataclass(frozen=True)
class Clipping(Part):
    """Minus the share of values of x0 outside the range of data; for models of pixels.

    Args:
        bound: data lies in ``[-bound, bound]``; from 0 up.

    Raises:
        TypeError, ValueError: the bound is no finite number from 0 up.
    """

    bound: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", check_number("Clipping", "bound", self.bound))

    def score(self, x0: Tensor, step: Step, prompts: Prompts) -> Tensor:
        """Minus the share of ``|x0| > bound``, ``(B,)``."""
        return -(wide(x0).flatten(1).abs() > self.bound).float().mean(1)
