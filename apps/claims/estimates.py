"""Measures by name, and numbers with what they are in each bootstrap resample."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from apps.evaluate.numbers.intervals import interval

TRUTH = 16
"""Fresh renders of each request that a cell is compared with."""

MEASURES = {
    "accuracy": "share of pictures that show all that the prompt states",
    "valid": "share of pictures in which the classifier recognises emblems at all",
    "leakage": "share of pictures that show what the negative states and the prompt does not",
    "fid": "Frechet distance of penultimate features of emblem-classifier to fresh renders of what "
    f"the prompts may show, {TRUTH} of each; lower is better",
    "diversity": "feature distance of the two pictures of a prompt, divided by that of fresh "
    "renders; 1 is as diverse as the world",
    "detail": "energy of what a 3x3 mean takes away, divided by that of fresh renders",
    "ssim": "structural similarity to the baseline's picture of the same prompt and noise",
    **{
        name: f"share of statements about the {name} that are right"
        for name in ("shape", "colour", "texture", "size", "background")
    },
}


@dataclass(frozen=True)
class Estimate:
    """A number and what it is in each bootstrap resample (count,)."""

    value: float
    replicates: Tensor

    @classmethod
    def unbiased(cls, value: float, replicates: Tensor) -> Estimate:
        """With the replicates moved to lie around the value: repeated pictures raise distances."""
        return cls(value, replicates.double() + (value - replicates.double().mean()))

    def __sub__(self, other: Estimate) -> Estimate:
        return Estimate(self.value - other.value, self.replicates - other.replicates)

    def to_dict(self) -> dict[str, float]:
        """The value and the bounds of its interval."""
        low, high = interval(self.replicates)
        return {"value": self.value, "low": low, "high": high}
