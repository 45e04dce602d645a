"""Perp-Neg: negative prompts that leave the positive one alone.

"Re-imagine the Negative Prompt Algorithm: Transform 2D Diffusion into 3D, alleviate Janus problem
and Beyond", Mohammadreza Armandpour, Ali Sadeghian, Huangjie Zheng, Amir Sadeghian and Mingyuan
Zhou, 2023, arXiv 2304.04968.

    dp         = cond - uncond,  dn_i = negative_i - uncond
    perp(x, y) = x - <x, y> / |y|^2 y
    guided     = uncond + s (dp - sum_i w_i perp(dn_i, dp))

Works in the model's own space; being built from differences, it is the same update in every space
(eps, v, x0). Projections are per sample over all other axes, in float32 at least.

uncond is the *empty* prompt. A pipeline's ``negative_prompt`` fills that slot, so leave it empty:
anything written there moves the reference instead of acting as a negative.

Deviations: the negatives are summed before the one projection, which is linear in them. Where cond
equals uncond there is nothing to protect and a negative acts whole; the paper's formula divides by
zero there. Weights are at least 0 and subtracted, where some implementations write them negative.
As in the authors' code a weight acts within the scale, the negatives are not projected against each
other, and they act at a scale of 1 too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from guidance.cfg import CFG
from guidance.core.kinds import Direction
from guidance.core.prediction import COND, UNCOND, Branch, Step, per_sample, prompt, wide
from guidance.core.scaled import guidance_scale
from guidance.core.schedule import Scale, check_number, check_scale

Text = str | int
"""A prompt, or a class label for models that are conditioned on classes."""

_MOST = 100


def perp_neg(
    uncond: Tensor,
    cond: Tensor,
    negatives: Tensor,
    weights: Tensor | Sequence[float] | Sequence[Sequence[float]],
    scale: float | Tensor,
) -> Tensor:
    """Guide towards cond and away from the part of the negatives that is orthogonal to it.

    Args:
        uncond, cond: predictions for the empty and for the main prompt, ``(B, ...)``.
        negatives: predictions for the ``K`` negatives, ``(K, B, ...)``.
        weights: ``w_i`` from 0 up, ``(K,)``, or one per sample ``(K, B)``.
        scale: ``s``; a number, or one per sample ``(B,)``. 0 gives uncond.

    Returns:
        Guided prediction ``(B, ...)`` in the dtype of ``cond``.

    Source: the equations at the top of this file.
    """
    axes = tuple(range(1, cond.ndim))
    u = wide(uncond)
    dp = wide(cond) - u
    w = torch.as_tensor(weights).to(u).view(len(negatives), -1, *[1] * len(axes))
    dn = (w * (wide(negatives) - u)).sum(0)
    size = dp.square().sum(axes, keepdim=True)
    # Relative, so that predictions of any size are treated alike.
    defined = size > 1e-12 * dn.square().sum(axes, keepdim=True)
    along = torch.where(defined, (dn * dp).sum(axes, keepdim=True) / size, 0.0)
    perp = dn - along * dp
    return (u + per_sample(scale, u) * (dp - perp)).to(cond.dtype)


@dataclass(frozen=True, repr=False)
class PerpNeg(Direction):
    """Classifier-free guidance with negatives that cannot push away what the prompt asks for.

    Leave the pipeline's own negative prompt empty: its slot is the reference. Each step costs one
    evaluation for every negative whose weight is not 0, beside the cond and the uncond one.

    Args:
        negatives: 1 to 100 negatives, each a text (a class label for DiT), or a tuple of them with
            one for each prompt of the call.
        weights: strength of the negatives, useful from 0.5 to 3: a number from 0 up for all, or one
            for each, which may itself be a tuple with one for each prompt of the call. 0 everywhere
            is CFG at the same scale.
        scale: finite number from 0 up, schedule, or function of the fraction of the run. None reads
            the pipeline's guidance_scale. The negatives act at 1 too; at 0 uncond is all that is
            left.

    Raises:
        TypeError, ValueError: a setting is of the wrong kind or out of range, or the numbers of
            negatives, weights and prompts do not agree; in a run, tuples of another length than the
            prompts of the call.
    """

    owns_uncond: ClassVar[bool] = True

    negatives: Sequence[Text | Sequence[Text]]
    weights: float | Sequence[float | Sequence[float]] = 1.0
    scale: Scale | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "negatives", _checked_negatives(self.negatives))
        object.__setattr__(self, "weights", _checked_weights(self.weights, len(self.negatives)))
        if self.scale is not None:
            object.__setattr__(self, "scale", check_scale("PerpNeg", "scale", self.scale))
        counts = {len(item) for item in (*self.negatives, *self._table) if isinstance(item, tuple)}
        if len(counts) > 1:
            raise ValueError(
                f"PerpNeg: negatives and weights must have one item for each prompt of the call, "
                f"found tuples of {' and '.join(map(str, sorted(counts)))} items"
            )

    def prompts(self) -> tuple[prompt, ...]:
        return tuple(branch for branch, _ in self._pulls)

    def needs(self, step: Step) -> Iterable[Branch]:
        if self._acts(step):
            return (UNCOND, *self.prompts())
        return self._plain.needs(step)

    def guide(self, step: Step) -> Tensor:
        if not self._acts(step):
            return self._plain.guide(step)
        scale = step.notes["scale"] = guidance_scale("PerpNeg", self.scale, step)
        uncond, cond = step.evaluate(UNCOND), step.evaluate(COND)
        negatives = torch.stack([step.evaluate(branch) for branch, _ in self._pulls])
        weights = torch.stack([_per_image(weight, len(cond)) for _, weight in self._pulls])
        return perp_neg(uncond, cond, negatives, weights, scale)

    @property
    def _plain(self) -> CFG:
        """The same guidance without negatives."""
        return CFG(self.scale)

    @property
    def _table(self) -> tuple[float | tuple[float, ...], ...]:
        """The weight of each negative."""
        weights: Any = self.weights
        return weights if isinstance(weights, tuple) else (weights,) * len(self.negatives)

    @property
    def _pulls(self) -> list[tuple[prompt, float | tuple[float, ...]]]:
        """Negatives that some image has a weight for, with their weights."""
        pairs = zip(self.negatives, self._table, strict=True)
        return [
            (prompt(text), weight)  # type: ignore[arg-type]
            for text, weight in pairs
            if (any(weight) if isinstance(weight, tuple) else weight)
        ]

    def _acts(self, step: Step) -> bool:
        """Whether any negative has an effect at this step."""
        return bool(self._pulls) and guidance_scale("PerpNeg", self.scale, step) > 0


def _per_image(weight: float | tuple[float, ...], images: int) -> Tensor:
    """A weight for each image ``(B,)``; images of one prompt follow each other."""
    values = weight if isinstance(weight, tuple) else (weight,)
    if images % len(values):
        raise ValueError(
            f"PerpNeg: weights must have one item for each prompt of the call, found {len(values)} "
            f"for {images} images"
        )
    return torch.tensor(values).repeat_interleave(images // len(values))


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _checked_text(value: object) -> Text:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(
            f"PerpNeg: negatives must be texts or class labels from 0 up, found {value!r:.80}"
        )
    return value


def _checked_negatives(value: Any) -> tuple[Text | tuple[Text, ...], ...]:
    negatives = tuple(
        tuple(map(_checked_text, item)) if _is_list(item) else _checked_text(item)
        for item in (value if _is_list(value) else (value,))
    )
    if not 1 <= len(negatives) <= _MOST or () in negatives:
        raise ValueError(
            f"PerpNeg: negatives must hold 1 to {_MOST} texts, found {len(negatives)}: "
            f"{negatives!r:.80}"
        )
    return negatives


def _checked_weights(value: Any, count: int) -> float | tuple[float | tuple[float, ...], ...]:
    def checked(number: object) -> float:
        return check_number("PerpNeg", "weights", number)

    if not _is_list(value):
        return checked(value)
    weights = tuple(
        tuple(map(checked, item)) if _is_list(item) else checked(item) for item in value
    )
    if len(weights) != count or () in weights:
        raise ValueError(
            f"PerpNeg: weights must be one number, or one for each of the {count} negatives, found "
            f"{len(weights)}: {weights!r:.80}"
        )
    return weights
