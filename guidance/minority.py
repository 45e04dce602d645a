"""Minority guidance: towards the rare pictures of what a model has learned.

"Don't Play Favorites: Minority Guidance for Diffusion Models", Soobin Um, Suhyeon Lee and Jong Chul
Ye, 2023, arXiv 2301.12334.

    x0'     = (x - sigma eps(x)) / alpha        Tweedie, at x = alpha x0 + sigma n, one fixed level
    l(x0)   = E_n d(x0, x0')                    the minority score; high is rare
    label   = j where q_{j-1} < l <= q_j        quantiles of the scores of the training pictures
    eps'    = eps - sigma w grad_x log p(label | x)

A classifier of noisy samples learns the labels; ``diffusteer train minority`` trains one. Works in
eps space, where ``w g`` is the same change of the score in all.

Deviations: the paper's d is LPIPS; mean squared error, its theoretical variant, is the default, as
it needs no network. The authors' code moves the mean of ancestral sampling by the variance times
``w g``, which is the same to first order. Nothing is done below alpha = 0.001, where a sample is
noise alone. An image whose gradient is not finite is left alone, and counted in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from guidance.classifier_guidance import check_target, classifier_guidance, log_p, targets_of
from guidance.core.gradient import finite_rows, gradient
from guidance.core.kinds import Direction
from guidance.core.prediction import COND, MIN_SIGNAL, Step, wide
from guidance.core.schedule import Scale, check_scale, scale_at
from guidance.evaluators.trained import NoisyClassifier

Distance = str | Callable[[Tensor, Tensor], Tensor]
"""``"mse"``, ``"lpips"``, or a function of two batches ``(B, ...)`` that returns ``(B,)``."""

_NAME = "MinorityGuidance"


def minority_score(x0: Tensor, x0_hat: Tensor, distance: Distance = "mse") -> Tensor:
    """How far reconstructions are from pictures, ``(B,)``; the rarer, the farther.

    Args:
        x0: pictures or latents ``(B, ...)``.
        x0_hat: what a model makes of them, of the same shape.
        distance: ``"mse"``, the mean squared error; ``"lpips"`` of pictures ``(B, 3, height,
            width)`` in ``[-1, 1]``, by VGG, which needs the package lpips; or a function.

    Raises:
        TypeError, ValueError: another distance, shapes that differ, a distance that does not
            return one number for each picture; ImportError without the package.

    Source: the second equation at the top of this file, for one draw.
    """
    check_distance("minority_score", distance)
    if x0.shape != x0_hat.shape:
        raise ValueError(
            f"minority_score: expected two batches of one shape, found {tuple(x0.shape)} and "
            f"{tuple(x0_hat.shape)}"
        )
    if distance == "mse":
        return (wide(x0) - wide(x0_hat)).square().flatten(1).mean(1)
    measure = _lpips if isinstance(distance, str) else distance
    apart = measure(wide(x0), wide(x0_hat))
    if not isinstance(apart, Tensor) or apart.shape != x0.shape[:1]:
        found = f"shape {tuple(apart.shape)}" if isinstance(apart, Tensor) else type(apart).__name__
        raise ValueError(
            f"minority_score: distance must return one number for each of the {len(x0)} pictures, "
            f"found {found}"
        )
    return apart


def quantile_labels(scores: Tensor, classes: int, groups: Sequence[Any] | None = None) -> Tensor:
    """Classes of scores by their quantiles, ``(N,)``: from 0, common, to ``classes - 1``, rare.

    Class j holds ``q_{j-1} < l <= q_j``, where ``q_j`` is the quantile of ``(j + 1) / classes``
    between neighbours in a straight line. Equal scores share a class, so that some may be empty.

    Args:
        scores: ``(N,)``, finite.
        classes: their number, from 2 up.
        groups: the class or label of each picture, within which the quantiles are taken.

    Raises:
        ValueError: scores that are not finite or no vector, too few classes, another number of
            groups.
    """
    if scores.ndim != 1 or not len(scores) or not scores.isfinite().all():
        raise ValueError(
            f"quantile_labels: scores must be finite numbers (N,), found shape "
            f"{tuple(scores.shape)} with {int((~scores.isfinite()).sum())} others"
        )
    if type(classes) is not int or classes < 2:
        raise ValueError(f"quantile_labels: classes must be a number from 2 up, found {classes!r}")
    names = [None] * len(scores) if groups is None else list(groups)
    if len(names) != len(scores):
        raise ValueError(
            f"quantile_labels: groups must be one for each of {len(scores)} scores, found "
            f"{len(names)}"
        )
    labels = torch.empty(len(scores), dtype=torch.long)
    for name in dict.fromkeys(names):
        rows = torch.tensor([row for row, other in enumerate(names) if other == name])
        own = scores.cpu().double()[rows]
        # Not torch.quantile, which refuses more than 16 million values.
        places = torch.arange(1, classes, dtype=torch.float64) / classes * (len(own) - 1)
        ordered, below = own.sort().values, places.long()
        low, high = ordered[below], ordered[(below + 1).clamp(max=len(own) - 1)]
        labels[rows] = torch.searchsorted(low + (high - low) * (places - below), own)
    return labels.to(scores.device)


class MinorityClassifier(NoisyClassifier):
    """A classifier of noisy samples that ``diffusteer train minority`` wrote, by its folder."""

    kinds: ClassVar[tuple[str, ...]] = ("minority",)


@dataclass(frozen=True, repr=False)
class MinorityGuidance(Direction):
    """Guidance to rare pictures, or any level of rarity, by a classifier of noisy samples.

    Costs no evaluation of the denoiser. Sums with CFG.

    Args:
        scale: ``w``, finite number from 0 up, schedule, or function of the fraction of the run. The
            paper uses 3.5, and 1 to 10. Neutral at 0.
        classifier: folder that ``diffusteer train minority`` wrote for this very denoiser; or a
            function of the noisy sample ``(B, ...)`` in float32 and the ``Step``, which returns
            logits ``(B, classes)`` from common to rare.
        label: class to go to, from 0 for the most common, or a tuple with one for each prompt of
            the call; None for the rarest.

    Raises:
        TypeError, ValueError: a setting is not of its kind or range; on entering a guide block, a
            folder that holds no such classifier or one of another denoiser; in a run, a classifier
            that cannot be differentiated, logits of another shape, a label beyond them.
    """

    scale: Scale
    classifier: Any
    label: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", check_scale(_NAME, "scale", self.scale))
        if isinstance(self.classifier, str | Path):
            object.__setattr__(self, "classifier", MinorityClassifier(str(self.classifier)))
        if not callable(self.classifier):
            raise TypeError(
                f"{_NAME}: classifier must be the folder of a trained one or a function of the "
                f"noisy sample and the step, found {self.classifier!r:.80}"
            )
        if self.label is not None:
            object.__setattr__(self, "label", check_target(_NAME, "label", self.label))

    def active(self, step: Step) -> bool:
        acts = super().active(step) and not step.alpha < MIN_SIGNAL
        return acts and scale_at(self.scale, step.fraction, _NAME) != 0

    def guide(self, step: Step) -> Tensor:
        cond, scale = step.evaluate(COND), scale_at(self.scale, step.fraction, _NAME)
        step.notes[f"{_NAME}: scale"] = scale
        log_p_of_label, slope = gradient(lambda x: self._log_p(x, step), step.noisy(cond), _NAME)
        slope, lost = finite_rows(slope)
        step.notes[f"{_NAME}: log p"] = log_p_of_label.tolist()
        step.notes[f"{_NAME}: images without gradient"] = lost
        return step.from_eps(classifier_guidance(step.eps(cond), slope, scale, step.sigma))

    def _log_p(self, x: Tensor, step: Step) -> Tensor:
        """``log p(label | x)`` of each image, ``(B,)``."""
        logits = self.classifier(x, step)
        label = logits.shape[-1] - 1 if self.label is None else self.label
        return log_p(logits, targets_of(_NAME, "label", label, x), _NAME)


def check_distance(owner: str, distance: object) -> None:
    """Raise TypeError unless it is a ``Distance``."""
    if distance not in ("mse", "lpips") and not callable(distance):
        raise TypeError(
            f"{owner}: distance must be 'mse', 'lpips' or a function of two batches, found "
            f"{distance!r:.80}"
        )


def _lpips(x0: Tensor, x0_hat: Tensor) -> Tensor:
    if x0.ndim != 4 or x0.shape[1] != 3:
        raise ValueError(
            "minority_score: lpips takes pictures (B, 3, height, width), found shape "
            f"{tuple(x0.shape)}; decode latents with OfPictures(pipe, 'lpips') of "
            "guidance.minority_scores"
        )
    return _lpips_network(x0.device)(x0.float(), x0_hat.float()).flatten()


@cache
def _lpips_network(device: torch.device) -> Any:
    try:
        import lpips
    except ImportError as error:
        raise ImportError(
            "minority_score: distance 'lpips' needs the package lpips, which is not installed; "
            "install it, or take 'mse' or a function of your own"
        ) from error
    return lpips.LPIPS(net="vgg", verbose=False).to(device).requires_grad_(False)
