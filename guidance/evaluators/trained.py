"""Evaluators that were trained on the predictions of a model, by the folder they were saved in.

They judge latents: nothing is decoded. ``guide`` refuses those of other models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import hypot, inf, log
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from guidance.core.config import Part
from guidance.core.prediction import Step
from guidance.evaluators.files import CONFIG, WEIGHTS, TrainedEvaluator, load_evaluator
from guidance.evaluators.network import AlignmentNet
from guidance.evaluators.origin import check_origin
from guidance.evaluators.protocol import Prompts

Stamp = tuple[int, int, int] | None


@dataclass(frozen=True)
class _Trained(Part):
    """Base of the trained evaluators.

    Args:
        path: folder that ``diffusteer train evaluator`` wrote, read when it is first needed.

    Raises:
        TypeError: the path is none; on use, ValueError for a folder that holds no such evaluator.
    """

    kinds: ClassVar[tuple[str, ...]]
    input: ClassVar[str] = "x0"

    path: str

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | Path) or not str(self.path):
            raise TypeError(
                f"{type(self).__name__}: path must be the folder of a trained evaluator, found "
                f"{self.path!r:.80}"
            )
        object.__setattr__(self, "path", str(self.path))

    def check_pipe(self, pipe: Any, denoisers: Sequence[nn.Module]) -> None:
        config = self._trained("cpu").config
        check_origin(config, pipe, denoisers[0], repr(self))

    def _trained(self, device: Any) -> TrainedEvaluator:
        """The evaluator on a device; read anew when its files have changed."""
        stamps = tuple(_stamp(Path(self.path) / name) for name in (CONFIG, WEIGHTS))
        found = _loaded(self.path, stamps, str(device))
        config, name = found.config, type(self).__name__
        if config.kind not in self.kinds:
            raise ValueError(
                f"{name}: path must hold one of kind {' or '.join(self.kinds)}, found one of kind "
                f"{config.kind} in {self.path!r}"
            )
        if config.input != self.input:
            raise ValueError(
                f"{name}: path must hold one that reads {self.input}, found one that reads "
                f"{config.input} in {self.path!r}"
            )
        return found

    def _judged(self, x: Tensor, step: Step, prompts: Prompts = None) -> Tensor:
        """What the network says of pictures ``(B, ...)`` at a step, ``(B, outputs)``."""
        net = self._trained(x.device).net
        settings = net.settings
        size = settings.size or tuple(x.shape[2:])
        if x.ndim != 4 or tuple(x.shape[1:]) != (settings.channels, *size):
            wanted = ", ".join(map(str, settings.size or ("height", "width")))
            raise ValueError(
                f"{self!r} judges latents (B, {settings.channels}, {wanted}), found shape "
                f"{tuple(x.shape)}; others, and packed latents, need one that was trained on them"
            )
        level = torch.full((len(x),), level_of(step), device=x.device)
        with torch.autocast(x.device.type, enabled=False):
            if not settings.text:
                return net(x.float(), level)
            text = self._text(step, prompts, len(x)).to(x.device)
            if isinstance(net, AlignmentNet):
                return net.agreement(x.float(), level, text)
            return net(x.float(), level, text)

    def _text(self, step: Step, prompts: Prompts, images: int) -> Tensor:
        """Text features of the prompt of each image, ``(images, text)``."""
        if prompts is None or len(prompts) != images:
            raise ValueError(
                f"{self!r} reads a prompt for each of the {images} images, found "
                f"{len(prompts or ())}; call the pipeline with text in place of embeddings"
            )
        return step.text_features(prompts)


class _Scoring(_Trained):
    """Base of those that give one number."""

    def score(self, x0: Tensor, step: Step, prompts: Prompts) -> Tensor:
        """What the network says, ``(B,)``."""
        return self._judged(x0, step, prompts)[:, 0]


class Alignment(_Scoring):
    """How well x0 agrees with its prompt: a cosine times the scale that was learned with it."""

    kinds: ClassVar[tuple[str, ...]] = ("alignment",)


class Discriminator(_Scoring):
    """How real x0 looks: the logit of real against the model's own, at the noise of the step."""

    kinds: ClassVar[tuple[str, ...]] = ("discriminator",)


class Reward(_Scoring):
    """What a scorer of finished pictures will say: standardised over the training pictures."""

    kinds: ClassVar[tuple[str, ...]] = ("reward",)


class LatentClassifier(_Trained):
    """Tells classes by x0 itself; for gradient-free and for classifier guidance."""

    kinds: ClassVar[tuple[str, ...]] = ("classifier", "minority")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self._trained("cpu").config.classes or ()

    def logits(self, x0: Tensor, step: Step) -> Tensor:
        """What the network says, ``(B, classes)``."""
        return self._judged(x0, step)


class NoisyClassifier(_Trained):
    """Tells classes by the noisy sample; for classifier guidance as its paper has it."""

    kinds: ClassVar[tuple[str, ...]] = ("classifier", "minority")
    input: ClassVar[str] = "noisy"

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        """What the network says of ``x / sqrt(alpha^2 + sigma^2)``, ``(B, classes)``."""
        return self._judged(x / hypot(step.alpha, step.sigma), step)


def level_of(step: Step) -> float:
    """``log(sigma / alpha)`` of a step, infinite for data and pure noise; ValueError if unknown."""
    step.noisy(step.x)
    if not step.alpha or not step.sigma:
        return inf if step.sigma else -inf
    return log(step.sigma / step.alpha)


def _stamp(path: Path) -> Stamp:
    """What changes when a file does; None without the file."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size, about.st_ino


@lru_cache(maxsize=16)
def _loaded(path: str, stamps: tuple[Stamp, ...], device: str) -> TrainedEvaluator:
    """An evaluator whose weights get no gradient, read once for each content and device."""
    with torch.inference_mode(False):  # gradients with respect to pictures go through it later
        found = load_evaluator(path)
        found.net.to(device).requires_grad_(False)
    return found
