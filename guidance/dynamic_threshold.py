"""Dynamic thresholding.

"Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding" (Imagen), Chitwan
Saharia, William Chan, Saurabh Saxena and others, 2022, arXiv 2205.11487, section 2.3.

    s      = max(p-quantile of |x0|, floor)           per sample
    result = clip(x0, -s, s) floor / s

Works in x0 space, on data of known bounds: pixels in [-1, 1], where ``floor`` is 1. Latents have no
such bound; give a floor from their own spread, or use another method.

Deviations: the paper has ``floor = 1``; the factor ``floor`` keeps values within any other floor
unchanged too. The p-quantile interpolates between sorted values; there is no upper limit on s, nor
on the number of values.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor as round_down

import torch
from torch import Tensor

from guidance.core.kinds import Correction
from guidance.core.prediction import Step, wide
from guidance.core.schedule import check_number


def dynamic_threshold(x0: Tensor, percentile: float, floor: float) -> Tensor:
    """Clip x0 to a percentile of its absolute values, and bring it back into ``[-floor, floor]``.

    Args:
        x0: clean data ``(B, ...)``.
        percentile: ``p`` in ``[0, 1]``; 1 only shrinks.
        floor: bound of the data, above 0; samples within it are left as they are.

    Returns:
        x0 ``(B, ...)`` within ``[-floor, floor]``, in its own dtype.

    Source: section 2.3.
    """
    values = wide(x0).flatten(1)
    sizes = values.abs().sort(1).values
    last = sizes.shape[1] - 1
    below = round_down(percentile * last)
    above = min(below + 1, last)
    quantile = torch.lerp(sizes[:, below], sizes[:, above], percentile * last - below)
    s = quantile.clamp(min=floor)[:, None]
    return (values.clamp(-s, s) * (floor / s)).view_as(x0).to(x0.dtype)


@dataclass(frozen=True, repr=False)
class DynamicThreshold(Correction):
    """Keeps x0 within its bounds after guidance, for models of pixels.

    Args:
        percentile: from 0 to 1; the default is a common choice, not verified in the paper.
        floor: bound of the data, above 0; neutral where no x0 goes beyond it.

    Raises:
        TypeError, ValueError: a setting is no number in its range; in a run, the x0 of an eps model
            at pure noise.
    """

    percentile: float = 0.995
    floor: float = 1.0

    def __post_init__(self) -> None:
        percentile = check_number("DynamicThreshold", "percentile", self.percentile, 0, 1)
        floor = check_number("DynamicThreshold", "floor", self.floor)
        if floor == 0:
            raise ValueError("DynamicThreshold: floor must be above 0, found 0")
        object.__setattr__(self, "percentile", percentile)
        object.__setattr__(self, "floor", floor)

    def correct(self, step: Step, guided: Tensor) -> Tensor:
        x0 = step.x0(guided)
        bounded = dynamic_threshold(x0, self.percentile, self.floor)
        return guided if torch.equal(bounded, x0) else step.from_x0(bounded)
