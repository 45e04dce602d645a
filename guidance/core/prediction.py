"""The one place where eps, v, x0 and flow velocity are converted into each other.

A state is ``x = alpha x0 + sigma eps``. Variance preserving models have ``alpha^2 + sigma^2 = 1``
and ``v = alpha eps - sigma x0`` (Salimans and Ho 2022, arXiv 2202.00512); flow models have
``alpha = 1 - sigma`` and ``v = eps - x0`` (Liu et al. 2022, arXiv 2209.03003, diffusers' sign).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from typing import Any

import torch
from torch import Tensor

Branch = Hashable
"""A prediction that a rule may ask for: ``COND``, ``UNCOND``, or one of the classes below."""

COND: Branch = "cond"
UNCOND: Branch = "uncond"


@dataclass(frozen=True)
class prompt:
    """Branch of an extra prompt, with everything but the text as in the conditional branch.

    Args:
        text: a prompt or a class label, or a tuple of them with one for each prompt of the call, or
            a function that makes it from each of them.
    """

    text: str | int | tuple[str | int, ...] | Callable[[Any], str | int]


@dataclass(frozen=True)
class perturbed:
    """Branch of the conditional inputs, or of another branch's, while a ``Perturbation`` works."""

    by: Any
    of: Branch = COND


@dataclass(frozen=True, eq=False)
class weak:
    """Branch of the conditional inputs, or of another branch's, in another denoiser.

    Denoisers are compared by identity.
    """

    model: Any
    of: Branch = COND

    def __eq__(self, other: object) -> bool:
        return isinstance(other, weak) and other.model is self.model and other.of == self.of

    def __hash__(self) -> int:
        return id(self.model)


@dataclass(frozen=True)
class limited:
    """A branch evaluated for some images; the others come back as the conditional prediction.

    Args:
        branch: what to evaluate.
        live: for each image of the batch, whether to evaluate it.
    """

    branch: Branch
    live: tuple[bool, ...]


PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "flow_prediction")

MIN_SIGNAL = 1e-3
"""Alpha below which a sample is noise alone, and nothing can be said of its x0."""


def wide(tensor: Tensor) -> Tensor:
    """The tensor in at least float32, the precision of every reduction here."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def per_sample(value: float | Tensor, like: Tensor) -> float | Tensor:
    """A number as it is, and one number per sample ``(B,)`` shaped to multiply ``(B, ...)``."""
    if isinstance(value, Tensor) and value.ndim == 1:
        return value.view(-1, *[1] * (like.ndim - 1))
    return value


def _divide(value: Tensor, by: float, what: str) -> Tensor:
    if by == 0:
        raise ValueError(
            f"{what} is undefined at this step: expected a noise level strictly between data and "
            "pure noise, found one of the two; limit the rule with .between(...)"
        )
    return value / by


def _one_by_one(branches: Iterable[Branch]) -> None:
    """Branches are evaluated when they are asked for."""


def _no_denoiser(*_: Any) -> Any:
    raise ValueError("there is no denoiser to differentiate: none was given")


def _no_text(prompts: Sequence[str | int]) -> Tensor:
    raise ValueError("there is no text encoder to read prompts with: none was given")


def _no_sampler() -> tuple[float, float]:
    raise ValueError("the noise level after this step is unknown: no sampler was given")


@dataclass(frozen=True)
class Step:
    """One denoiser call as a rule sees it.

    Attributes:
        index, count: number of this call within the run, and calls in the run.
        fraction: ``index / count``, from 0 up to but excluding 1.
        timestep: the time given to the model; fractional for Karras spacings.
        alpha, sigma: ``x = alpha x0 + sigma eps``; nan with a scheduler whose levels are unknown.
        x: model input of the conditional rows, ``(B, ...)``; it may have more channels than
            predictions, which come last.
        prediction_type: what the model predicts, one of ``PREDICTION_TYPES``.
        evaluator: computes the prediction of a branch; use ``evaluate``.
        prepare: evaluates several branches, in one batch where the batching allows.
        denoise: the conditional prediction for another noisy input ``(B, ...)``, which may have the
            channels of predictions alone; evaluated anew, and differentiable. A second argument,
            as from ``PromptToken.encode``, gives it other embedded prompts than the step's; empty
            for those of the pipeline.
        traced: the model input ``(B, ...)`` as a leaf in float32, and the conditional prediction
            with the denoiser's graph up to it; shares the conditional evaluation where the rule
            ``differentiates``.
        at: this step moved to another noise level of the scheduler, a share from 0, the cleanest,
            to 1, the noisiest: for ``denoise``, and for conversions after ``replace(step, x=...)``.
        after: computes alpha and sigma of the next call; 1 and 0 after the last.
        scheduler: class name of the scheduler.
        next_level: computes alpha and sigma after this step; raises ValueError where the sampler is
            no deterministic first order one.
        guidance_scale: ``w`` of the pipeline's own call, if there is one.
        native: the pipeline's own guidance ``(uncond, cond, w)``, where it is more than
            ``uncond + w (cond - uncond)``.
        channels: axis of the channels.
        prompts: prompt or class label of each image of the batch; None where there is none to read,
            as for embeddings and in a loop of one's own.
        text_features: features ``(n, 2 width)`` of n prompts by the pipeline's first text encoder,
            see ``guidance.core.text``; raises ValueError where it has none.
        live: images that branches are evaluated for, None for all; see ``only``.
        memory: what rules keep from one call to the next; empty at the start of every run.
        notes: what rules put in the report of this call.
    """

    index: int
    count: int
    timestep: float
    alpha: float
    sigma: float
    x: Tensor
    prediction_type: str
    evaluator: Callable[[Branch], Tensor]
    prepare: Callable[[Iterable[Branch]], None] = _one_by_one
    denoise: Callable[..., Tensor] = _no_denoiser
    traced: Callable[[], tuple[Tensor, Tensor]] = _no_denoiser
    at: Callable[[float], Step] = _no_denoiser
    after: Callable[[], tuple[float, float]] = _no_sampler
    scheduler: str = ""
    next_level: Callable[[], tuple[float, float]] = _no_sampler
    guidance_scale: float | None = None
    native: Callable[[Tensor, Tensor, float], Tensor] | None = None
    prompts: tuple[str | int, ...] | None = None
    text_features: Callable[[Sequence[str | int]], Tensor] = _no_text
    live: tuple[bool, ...] | None = None
    channels: int = 1
    memory: dict[Hashable, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        """Progress of the run in calls, in ``[0, 1)``."""
        return self.index / self.count

    @property
    def edm_sigma(self) -> float:
        """Noise level ``sigma / alpha`` of the EDM convention; infinite for pure noise."""
        return self.sigma / self.alpha if self.alpha else float("inf")

    def evaluate(self, branch: Branch) -> Tensor:
        """Prediction of a branch in the model's own space, ``(B, ...)``; computed at most once."""
        return self.evaluator(branch if self.live is None else limited(branch, self.live))

    def only(self, live: Sequence[bool]) -> Step:
        """This step with every branch but cond evaluated for the live images alone."""
        return replace(self, live=tuple(live))

    def evaluate_each(self, branches: Sequence[Branch | None]) -> Tensor:
        """Prediction of a branch of its own for each image, ``(B, ...)``; for None that of cond."""
        live = self.live or (True,) * len(branches)
        parts = [
            limited(wanted, tuple(a and b == wanted for a, b in zip(live, branches, strict=True)))
            for wanted in dict.fromkeys(branches)
            if wanted is not None
        ]
        parts = [part for part in parts if any(part.live)]
        self.prepare(parts)
        result = self.evaluate(COND)
        for part in parts:
            mask = torch.tensor(part.live, device=result.device)
            mask = mask.view(-1, *[1] * (result.ndim - 1))
            result = torch.where(mask, self.evaluator(part), result)
        return result

    def noisy(self, like: Tensor) -> Tensor:
        """The noisy input in the channels of a prediction; raises ValueError at unknown noise."""
        if isnan(self.alpha):
            raise ValueError(
                "the noise level of this scheduler is unknown, so that predictions cannot be "
                "converted: expected a flow matching scheduler or one with alphas_cumprod (DDIM, "
                "Euler, DPM++, UniPC ...); set one of those as pipe.scheduler"
            )
        return wide(self.x.narrow(self.channels, 0, like.shape[self.channels]))

    def x0(self, pred: Tensor) -> Tensor:
        """Clean data that a prediction implies; raises ValueError for eps models at alpha 0."""
        pred, x = wide(pred), self.noisy(pred)
        match self.prediction_type:
            case "epsilon":
                return _divide(x - self.sigma * pred, self.alpha, "x0")
            case "sample":
                return pred
            case "v_prediction":
                return self.alpha * x - self.sigma * pred
            case _:
                return x - self.sigma * pred

    def eps(self, pred: Tensor) -> Tensor:
        """Noise that a prediction implies; raises ValueError for x0 models at sigma 0."""
        pred, x = wide(pred), self.noisy(pred)
        match self.prediction_type:
            case "epsilon":
                return pred
            case "sample":
                return _divide(x - self.alpha * pred, self.sigma, "eps")
            case "v_prediction":
                return self.sigma * x + self.alpha * pred
            case _:
                return x + self.alpha * pred

    def velocity(self, pred: Tensor) -> Tensor:
        """Velocity along the model's path: ``eps - x0`` for flow, ``alpha eps - sigma x0`` else."""
        if self.prediction_type in ("v_prediction", "flow_prediction"):
            return wide(pred)
        return self.alpha * self.eps(pred) - self.sigma * self.x0(pred)

    def score(self, pred: Tensor) -> Tensor:
        """Gradient of the log density of x, ``-eps / sigma``."""
        return _divide(-self.eps(pred), self.sigma, "the score")

    def from_x0(self, x0: Tensor) -> Tensor:
        """Prediction in the model's own space that implies this x0; inverse of ``x0``."""
        x0, x = wide(x0), self.noisy(x0)
        match self.prediction_type:
            case "epsilon":
                return _divide(x - self.alpha * x0, self.sigma, "eps")
            case "sample":
                return x0
            case "v_prediction":
                return _divide(self.alpha * x - x0, self.sigma, "v")
            case _:
                return _divide(x - x0, self.sigma, "the flow velocity")

    def from_eps(self, eps: Tensor) -> Tensor:
        """Prediction in the model's own space that implies this noise; inverse of ``eps``."""
        eps, x = wide(eps), self.noisy(eps)
        match self.prediction_type:
            case "epsilon":
                return eps
            case "sample":
                return _divide(x - self.sigma * eps, self.alpha, "x0")
            case "v_prediction":
                return _divide(eps - self.sigma * x, self.alpha, "v")
            case _:
                return _divide(eps - x, self.alpha, "the flow velocity")
