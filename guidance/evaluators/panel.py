"""How several evaluators vote on the same candidates: normalised scores, summed by weight."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guidance.core.prediction import Step, wide
from guidance.core.schedule import check_scale, scale_at
from guidance.evaluators.protocol import Evaluator, Prompts

Score = Callable[[Tensor, Step, Prompts], Tensor]

NORMALISATIONS = ("minmax", "zscore", "rank", "none")

_MEANS = "evaluators: mean scores"


def check_scores(scores: object, images: int, of: str) -> Tensor:
    """Scores in at least float32; raises one line where they are not one for each image."""
    if not isinstance(scores, Tensor) or scores.shape != (images,):
        found = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores)
        raise ValueError(
            f"{of} must return a tensor with one score per image, shape ({images},), found {found}"
        )
    return wide(scores)


def normalised(scores: Tensor, how: str) -> Tensor:
    """Scores ``(K, B)`` made comparable over the K candidates, for each image by itself.

    Args:
        scores: those that are not finite stay as they are and count for nothing.
        how: ``"minmax"`` to [0, 1], ``"zscore"`` to mean 0 and deviation 1, ``"rank"`` to ranks in
            [0, 1], of which equals share the mean; equal scores become 0. ``"none"`` changes none.
    """
    finite = scores.isfinite()
    low = scores.masked_fill(~finite, torch.inf).amin(0)
    size = scores.masked_fill(~finite, -torch.inf).amax(0) - low
    count = finite.sum(0)
    match how:
        case "minmax":
            result = (scores - low) / size
        case "zscore":
            away = scores - scores.masked_fill(~finite, 0.0).sum(0) / count
            result = away / (away.masked_fill(~finite, 0.0).square().sum(0) / count).sqrt()
        case "rank":
            others = scores.masked_fill(~finite, torch.inf)
            below = (others[None] < scores[:, None]).sum(1)
            same = (others[None] == scores[:, None]).sum(1)
            result = (below + (same - 1) / 2) / (count - 1)
        case _:
            return scores
    return torch.where(finite, torch.where(size > 0, result, 0.0), scores)


@dataclass(frozen=True)
class Panel:
    """Evaluators with their weights.

    Args:
        evaluators: one or several, see ``DynamicCFG``.
        weights: finite number from 0 up, schedule, or function of the fraction of the run; for each
            evaluator, or one for all. Nobody is asked at weight 0.
        normalisation: one of ``NORMALISATIONS``.
        adaptive: multiply each weight by the relative change ``|e - e_before| / |e_before|`` of the
            evaluator's mean score over the candidates since it was last asked, for each image.

    Raises:
        TypeError, ValueError: a setting is not of its kind.
    """

    evaluators: Any
    weights: Any
    normalisation: str
    adaptive: bool

    def __post_init__(self) -> None:
        given = self.evaluators
        judges = tuple(given) if isinstance(given, list | tuple) else (given,)
        for judge in judges or (None,):
            if isinstance(judge, type) or not (isinstance(judge, Evaluator) or callable(judge)):
                raise TypeError(
                    "evaluators must be objects with score(x0, step, prompts) or functions of "
                    f"these, found {judge!r:.80}"
                )
        weights: Any = self.weights
        if isinstance(weights, list | tuple):
            weights = tuple(check_scale("evaluators", "weights", weight) for weight in weights)
            if len(weights) != len(judges):
                raise ValueError(
                    f"evaluators: weights must be one for all or one for each of {len(judges)}, "
                    f"found {len(weights)}"
                )
        else:
            weights = check_scale("evaluators", "weights", weights)
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(
                f"evaluators: normalisation must be one of {', '.join(NORMALISATIONS)}, "
                f"found {self.normalisation!r}"
            )
        object.__setattr__(self, "evaluators", judges)
        object.__setattr__(self, "weights", weights)

    def weights_at(self, step: Step) -> list[float]:
        """Weight of each evaluator at a step."""
        one = not isinstance(self.weights, tuple)
        given = (self.weights,) * len(self.evaluators) if one else self.weights
        return [scale_at(weight, step.fraction, "evaluators: weights") for weight in given]

    def scores(self, candidates: Sequence[Tensor], step: Step) -> Tensor:
        """Weighted sum of normalised scores, ``(K, B)``; not finite where one of them is not.

        Args:
            candidates: K predictions of x0, each ``(B, ...)``.
            step: its memory keeps the mean scores for the next call.
        """
        images = len(candidates[0])
        total = torch.zeros(len(candidates), images, device=candidates[0].device)
        for number, weight in enumerate(self.weights_at(step)):
            if weight:
                scores = _asked(self.evaluators[number], candidates, step).to(total.device)
                share = _change(scores, step, (_MEANS, number)) if self.adaptive else 1.0
                total = total + weight * share * normalised(scores, self.normalisation)
        return total


def _asked(evaluator: Evaluator | Score, candidates: Sequence[Tensor], step: Step) -> Tensor:
    """Scores of one evaluator, ``(K, B)``."""
    ask = evaluator.score if isinstance(evaluator, Evaluator) else evaluator
    name = getattr(evaluator, "__name__", type(evaluator).__name__)
    with torch.no_grad():
        answers = [ask(x0, step, step.prompts) for x0 in candidates]
    return torch.stack([check_scores(answer, len(candidates[0]), name) for answer in answers])


def _change(scores: Tensor, step: Step, key: Hashable) -> Tensor | float:
    """Relative change of the mean score of each image since the last call, 1 at the first."""
    mean, before = scores.nanmean(0), step.memory.get(key)
    step.memory[key] = mean
    if before is None:
        return 1.0
    return ((mean - before).abs() / before.abs()).nan_to_num(nan=0.0, posinf=1.0)
