"""Dynamic CFG: at every step and for every image, the scale whose outcome judges like best.

"Dynamic Classifier-Free Diffusion Guidance via Online Feedback", Pinelopi Papalampidi, Olivia
Wiles, Ira Ktena, Aleksandar Shtedritski, Emanuele Bugliarello, Ivana Kajic, Isabela Albuquerque and
Aida Nematzadeh, 2025, arXiv 2509.16131.

    x0_k   = x0(uncond + w_k (cond - uncond))         for every candidate w_k
    T_k    = sum_e lambda_e N(score_e(x0_k))          N normalises over the candidates
    guided = uncond + w_k* (cond - uncond),  k* = argmax_k T_k         per sample

All candidates come from the same two predictions, so that they cost no denoiser evaluation.
Scores are read in x0 space; the guidance itself is that of ``CFG`` in the model's own space.

The authors have published no code. From the abstract: the candidates, the greedy choice for every
step, prompt and sample, evaluators in latent space. Known to us from summaries alone: the authors
score the noisy state after the step, and weigh evaluators by ``(e_t - e_before) / e_before``, the
relative change of their score since the step before. All else is our reconstruction, and ours are

- x0 in place of the next state, which needs no copy of the sampler, and lets evaluators of clean
  images take part; those that know noise get the step;
- the normalisation, and weights that follow a schedule;
- of ``adaptive``: e_t is the mean over the candidates, its change counts without its sign, so that
  a falling score does not turn a judge around, and every weight is 1 at the first step;
- ties, which go to the candidate nearest the default, and scores that are not finite, which lose.

Greedy is not optimal over a run. A score without bound is best at an end of the candidates: it
should come with a penalty. A better score of the evaluator that chose is no evidence of quality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar

import torch
from torch import Tensor

from guidance.cfg import CFG, cfg
from guidance.core.kinds import Direction
from guidance.core.prediction import Branch, Step
from guidance.core.schedule import check_number
from guidance.evaluators.agreement import CHOSEN
from guidance.evaluators.panel import Panel, check_scores

_LAST = "DynamicCFG: last choice"


def choose_scale(
    uncond: Tensor,
    cond: Tensor,
    scales: Sequence[float],
    score: Callable[[Tensor], Tensor],
    default: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Classifier-free guidance at the scale with the best score.

    Args:
        uncond, cond: predictions ``(B, ...)`` in any one space.
        scales: candidates.
        score: of a guided prediction ``(B, ...)``, ``(B,)``; larger is better.
        default: scale that decides ties, and where no score is finite; None for the first.

    Returns:
        Guided prediction ``(B, ...)`` in the dtype of ``cond``, and its scale for each sample.

    Source: the equations at the top of this file, with one evaluator.
    """
    candidates = [float(scale) for scale in scales]
    guided = torch.stack([cfg(uncond, cond, scale) for scale in candidates])
    scores = torch.stack([check_scores(score(each), len(cond), "score") for each in guided])
    scores = scores.to(cond.device)
    best = _best(scores, candidates, candidates[0] if default is None else default)
    return _taken(guided, best), torch.tensor(candidates, device=best.device)[best]


def _best(scores: Tensor, scales: Sequence[float], default: float) -> Tensor:
    """Number of the best candidate of each image, of scores ``(K, B)``."""
    nearest_first = sorted(range(len(scales)), key=lambda k: abs(scales[k] - default))
    order = torch.tensor(nearest_first, device=scores.device)
    comparable = scores.masked_fill(~scores.isfinite(), -torch.inf)
    return order[comparable[order].argmax(0)]


def _taken(candidates: Tensor, best: Tensor) -> Tensor:
    """The best of the candidates ``(K, B, ...)`` for each image."""
    return candidates[best, torch.arange(len(best), device=best.device)]


@dataclass(frozen=True, repr=False)
class DynamicCFG(Direction):
    """Classifier-free guidance whose scale evaluators choose anew at every step, for every image.

    The report has the scale and the scores of every image. Evaluators are called without gradients,
    and draw no random numbers but from generators of their own.

    Args:
        scales: candidates, finite numbers from 0 up. A single one is ``CFG`` with it.
        evaluators: one or several of ``guidance.evaluators``, objects with their ``score``, or
            functions ``(x0, step, prompts) -> (B,)``, larger for better.
        weights: of each evaluator, or one for all: finite number from 0 up, schedule, or function
            of the fraction of the run. Nobody is asked at weight 0; where all are 0, the scale is
            the candidate nearest the default.
        default: scale that decides ties, added to the candidates; None reads the pipeline's
            guidance_scale, or takes the lowest candidate where there is none, and adds nothing.
        every: calls from 1 up for which a choice holds; 2 holds it over a step of Heun's solver.
        normalisation: of each evaluator's scores over the candidates, ``"minmax"``, ``"zscore"``,
            ``"rank"`` or ``"none"`` for evaluators on one scale.
        adaptive: multiply weights by the relative change of the evaluator's score since its last.

    Raises:
        TypeError, ValueError: a setting is out of range; in a run, an evaluator that returns no
            score per image, or the x0 of an eps model at pure noise.
    """

    owns_uncond: ClassVar[bool] = True

    scales: Sequence[float]
    evaluators: Any
    weights: Any = 1.0
    default: float | None = None
    every: int = 1
    normalisation: str = "minmax"
    adaptive: bool = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        if isinstance(self.scales, str) or not isinstance(self.scales, Sequence) or not self.scales:
            raise TypeError(
                f"{name}: scales must be candidates such as (1, 4, 7.5), found {self.scales!r:.80}"
            )
        default = () if self.default is None else (self.default,)
        scales = {check_number(name, "scales", scale) for scale in self.scales}
        scales |= {check_number(name, "default", scale) for scale in default}
        object.__setattr__(self, "scales", tuple(sorted(scales)))
        object.__setattr__(self, "evaluators", self._panel.evaluators)
        object.__setattr__(self, "weights", self._panel.weights)
        if check_number(name, "every", self.every, 1) % 1:
            raise ValueError(f"{name}: every must be whole, found {self.every:g}")
        object.__setattr__(self, "every", int(self.every))

    @property
    def _panel(self) -> Panel:
        return Panel(self.evaluators, self.weights, self.normalisation, self.adaptive)

    def needs(self, step: Step) -> Iterable[Branch]:
        return {branch for scale in self.scales for branch in CFG(scale).needs(step)}

    def guide(self, step: Step) -> Tensor:
        guided = torch.stack([CFG(scale).guide(step) for scale in self.scales])
        if _LAST not in step.memory or step.index % self.every == 0:
            step.memory[_LAST] = self._choice(step, guided)
        best = step.memory[_LAST]
        live = step.live or (True,) * len(best)
        step.notes["scale"] = [
            self.scales[k] if alive else None for k, alive in zip(best.tolist(), live, strict=True)
        ]
        return _taken(guided, best)

    def _choice(self, step: Step, guided: Tensor) -> Tensor:
        """Number of the candidate for each image, of predictions ``(K, B, ...)``."""
        default = step.guidance_scale if self.default is None else self.default
        default = self.scales[0] if default is None else default
        if len(guided) == 1 or not any(self._panel.weights_at(step)):
            return _best(torch.zeros(guided.shape[:2], device=guided.device), self.scales, default)
        candidates = torch.stack([step.x0(each) for each in guided])
        scores = self._panel.scores(candidates.unbind(), step)
        best = _best(scores, self.scales, default)
        step.memory[CHOSEN] = _taken(candidates, best)
        step.notes["scores"] = [
            [score if isfinite(score) else None for score in image] for image in scores.T.tolist()
        ]
        if unjudged := int((~scores.isfinite()).all(0).sum()):
            step.notes["unjudged_images"] = unjudged
        return best
