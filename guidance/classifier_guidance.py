"""Classifier guidance: up the gradient of a classifier.

"Diffusion Models Beat GANs on Image Synthesis", Prafulla Dhariwal and Alex Nichol, 2021,
arXiv 2105.05233, algorithm 2.

    g    = grad_x log p(y | x)
    eps' = eps - sigma s g                     samples p(x) p(y | x)^s

The classifier sees the noisy sample x of the step, as in the paper, or a prediction of x0. For that
the noise that the model predicts is held fixed, ``x0 = (x - sigma eps) / alpha``, so that its
gradient is that of x0 over alpha and nothing is differentiated through the denoiser.

Works in eps space; ``s g`` is the same change of the score in all: v and flow velocities change by
``-sigma / alpha s g``, x0 by ``sigma^2 / alpha s g``.

Deviations: algorithm 1, which shifts the mean of ancestral sampling by the variance times s g, is
the same to first order and not written out. The gradient is taken at x, as the authors' code does.
Nothing is done below alpha = 0.001, where a sample is noise alone and other spaces divide by zero.
An image whose gradient is not finite is left alone, and counted in the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guidance.core.classes import class_of
from guidance.core.gradient import finite_rows, gradient
from guidance.core.kinds import Direction
from guidance.core.prediction import COND, MIN_SIGNAL, Step, per_sample, wide
from guidance.core.schedule import Scale, check_scale, scale_at
from guidance.evaluators.protocol import Classifier

_NAME = "ClassifierGuidance"


def classifier_guidance(
    eps: Tensor, gradient: Tensor, scale: float | Tensor, sigma: float
) -> Tensor:
    """The noise prediction of ``p(x) p(y | x)^s``.

    Args:
        eps: noise prediction ``(B, ...)``.
        gradient: of ``log p(y | x)`` with respect to the noisy sample, ``(B, ...)``.
        scale: ``s``; a number, or one per sample ``(B,)``. 0 gives eps.
        sigma: noise level of ``x = alpha x0 + sigma eps``.

    Returns:
        Guided noise prediction ``(B, ...)`` in the dtype of ``eps``.

    Source: algorithm 2 of the paper.
    """
    e = wide(eps)
    return (e - sigma * per_sample(scale, e) * wide(gradient)).to(eps.dtype)


@dataclass(frozen=True, repr=False)
class ClassifierGuidance(Direction):
    """Guidance by the gradient of a classifier, for any model and also without a prompt.

    Costs no evaluation of the denoiser, and memory for the classifier's graph alone. Best with a
    classifier that was trained on noisy samples; others answer to noise as they please.

    Args:
        scale: ``s``, finite number from 0 up, schedule, or function of the fraction of the run. The
            paper uses 0.5 to 4 with conditional and 10 with unconditional models. Neutral at 0.
        classifier: function of the noisy sample ``(B, ...)`` in float32 and the ``Step``, which
            returns logits ``(B, K)``; or a ``guidance.evaluators.Classifier``, of x0.
        target: number of the class, or a tuple with one for each prompt of the call. None for the
            class of a ``Classifier`` whose name stands in the prompt.

    Raises:
        TypeError, ValueError: a setting is not of its kind or range; in a run, a classifier that
            cannot be differentiated, logits of another shape, a target beyond them.
    """

    scale: Scale
    classifier: Any
    target: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", check_scale(_NAME, "scale", self.scale))
        if not self._on_x0 and not callable(self.classifier):
            raise TypeError(
                f"{_NAME}: classifier must be a function of the noisy sample and the step, or a "
                f"Classifier of guidance.evaluators, found {type(self.classifier).__name__}"
            )
        if self.target is None and self._on_x0:
            return
        object.__setattr__(self, "target", check_target(_NAME, "target", self.target))

    def guide(self, step: Step) -> Tensor:
        cond, scale = step.evaluate(COND), scale_at(self.scale, step.fraction, _NAME)
        step.notes[f"{_NAME}: scale"] = scale
        if scale == 0 or step.alpha < MIN_SIGNAL:
            return cond
        eps, targets = step.eps(cond), self._targets(step, len(cond))
        if self._on_x0:
            x0 = step.x0(cond)
            log_p, slope = gradient(lambda x: self._log_p(x, step, targets), x0, _NAME)
            slope = slope / step.alpha
        else:
            noisy = step.noisy(cond)
            log_p, slope = gradient(lambda x: self._log_p(x, step, targets), noisy, _NAME)
        slope, lost = finite_rows(slope)
        step.notes[f"{_NAME}: log p"] = log_p.tolist()
        step.notes[f"{_NAME}: images without gradient"] = lost
        return step.from_eps(classifier_guidance(eps, slope, scale, step.sigma))

    @property
    def _on_x0(self) -> bool:
        return isinstance(self.classifier, Classifier)

    def _log_p(self, x: Tensor, step: Step, targets: Tensor) -> Tensor:
        """``log p(y | x)`` of the target of each image, ``(B,)``."""
        judge = self.classifier.logits if self._on_x0 else self.classifier
        return log_p(judge(x, step), targets, _NAME)

    def _targets(self, step: Step, images: int) -> Tensor:
        """The class of each image, ``(B,)``; images of one prompt follow each other."""
        targets: Any = self.target
        if targets is None:
            if step.prompts is None:
                raise ValueError(
                    f"{_NAME}: target must be given where the call has no prompts to read it from"
                )
            targets = [class_of(text, tuple(self.classifier.classes)) for text in step.prompts]
        return targets_of(_NAME, "target", targets, step.x)


def check_target(owner: str, name: str, value: Any) -> int | tuple[int, ...]:
    """The number of a class, or a tuple of several; anything else raises one line."""
    numbers = (value,) if isinstance(value, int) else value
    if not isinstance(numbers, list | tuple) or not numbers or not all(map(_is_class, numbers)):
        raise TypeError(
            f"{owner}: {name} must be the number of a class from 0 up, or one for each prompt, "
            f"found {value!r:.80}"
        )
    return value if isinstance(value, int) else tuple(numbers)


def targets_of(owner: str, name: str, numbers: int | Sequence[int], images: Tensor) -> Tensor:
    """The class of each image of a batch, ``(B,)``; images of one prompt follow each other."""
    several = (numbers,) if isinstance(numbers, int) else numbers
    each, rest = divmod(len(images), len(several))
    if rest:
        raise ValueError(
            f"{owner}: {name} must have one item for each prompt of the call, found "
            f"{len(several)} for {len(images)} images"
        )
    return torch.tensor(several, device=images.device).repeat_interleave(each)


def log_p(logits: Tensor, targets: Tensor, owner: str) -> Tensor:
    """Log probability of the target class of each image, ``(B,)``, from ``(B, classes)``."""
    if logits.ndim != 2 or len(logits) != len(targets) or logits.shape[1] <= int(targets.max()):
        raise ValueError(
            f"{owner}: classifier must return logits (images, classes) of {len(targets)} images "
            f"and more than {int(targets.max())} classes, found shape {tuple(logits.shape)}"
        )
    return torch.log_softmax(wide(logits), 1).gather(1, targets[:, None])[:, 0]


def _is_class(value: object) -> bool:
    return type(value) is int and value >= 0
