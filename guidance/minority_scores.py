"""Minority scores of given pictures under any pipeline: how rare it finds them.

See ``guidance.minority`` for the paper. The pipeline is called as for sampling and stopped at its
first denoiser call, so that the model gets all that it is conditioned on. A score costs one
evaluation for each draw of noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from guidance.core.guide import guide
from guidance.core.kinds import Direction
from guidance.core.noise import generator_of, noise_like
from guidance.core.prediction import Branch, Step, wide
from guidance.core.schedule import check_number
from guidance.evaluators.decoded import decoder
from guidance.minority import Distance, check_distance, minority_score

LEVELS = 100
"""Steps whose noise levels ``level`` counts in, those of the authors' code."""


def minority_scores(
    pipe: Any,
    x0: Tensor | Callable[[Step], Tensor],
    call: Mapping[str, Any],
    *,
    level: float = 0.6,
    draws: int = 5,
    seed: int = 0,
    distance: Distance = "mse",
) -> Tensor:
    """The minority score of each picture of a batch, ``(B,)``; high is rare.

    Args:
        pipe: any pipeline that ``guide`` takes.
        x0: pictures, or their latents as the denoiser sees them, ``(B, ...)``; or a function of the
            ``Step`` at which the run starts that returns them.
        call: arguments for the pipeline that ask for so many pictures of this size: their prompts
            or class labels, or ``""`` for what the model thinks of a picture without its caption.
        level: noise level at which pictures are reconstructed, from 0, data, to 1: a share of those
            that the scheduler has for 100 steps. The authors use 0.6.
        draws: of noise for each picture; the score is their mean.
        seed: of the noise, which depends on it and on the picture alone.
        distance: of pictures and reconstructions, see ``minority_score``.

    Raises:
        TypeError, ValueError: a setting out of range, a call that asks for other pictures.
    """
    check_number("minority_scores", "level", level, 0, 1)
    if check_number("minority_scores", "draws", draws, 1) % 1:
        raise ValueError(f"minority_scores: draws must be whole, found {draws}")
    check_distance("minority_scores", distance)
    rule = _Score(x0, level, int(draws), seed, distance)
    # Nothing is decoded: the run ends at its first denoiser call.
    try:
        with torch.no_grad(), guide(pipe, rule):
            pipe(**{"num_inference_steps": LEVELS, **call})
    except _Scored as scored:
        return scored.scores
    raise ValueError("minority_scores: the pipeline did not call its denoiser")


@dataclass(frozen=True)
class OfPictures:
    """A distance between latents by the pictures that they stand for.

    Args:
        decode: a VAE, a pipeline, a function from x0 to pictures in ``[0, 1]``, or None for models
            of pixels, see ``guidance.evaluators.Decoded``.
        distance: of pictures in ``[-1, 1]``, see ``minority_score``.
    """

    decode: Any
    distance: Distance = "mse"

    def __call__(self, x0: Tensor, x0_hat: Tensor) -> Tensor:
        decode = decoder(self.decode)
        a, b = (2 * decode(each).float().clamp(0, 1) - 1 for each in (x0, x0_hat))
        return minority_score(a, b, self.distance)


class _Scored(BaseException):
    """Ends the run of the pipeline with its result."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores


@dataclass(frozen=True, repr=False)
class _Score(Direction):
    """Scores pictures instead of guiding, with the settings of ``minority_scores``."""

    x0: Tensor | Callable[[Step], Tensor]
    level: float
    draws: int
    seed: int
    distance: Distance

    def needs(self, step: Step) -> Iterable[Branch]:
        # Asked before anything is evaluated for sampling, of which nothing is needed.
        raise _Scored(self._scores(step))

    def _scores(self, step: Step) -> Tensor:
        x0 = wide(self.x0 if isinstance(self.x0, Tensor) else self.x0(step)).to(step.x.device)
        if _without(step.channels, x0) != _without(step.channels, step.x):
            raise ValueError(
                f"minority_scores: the call must ask for the pictures that are scored, shape "
                f"{tuple(x0.shape)}, found {tuple(step.x.shape)}; set prompts, height and width"
            )
        there = step.at(self.level)
        generators = [generator_of(self.seed, image) for image in x0]
        total = torch.zeros(len(x0), device=x0.device)
        for _ in range(self.draws):
            x = there.alpha * x0 + there.sigma * noise_like(x0, generators)
            x0_hat = replace(there, x=x).x0(there.denoise(x))
            total = total + minority_score(x0, x0_hat, self.distance)
        return total / self.draws


def _without(axis: int, tensor: Tensor) -> list[int]:
    """The shape of a tensor but for one axis."""
    return [size for number, size in enumerate(tensor.shape) if number != axis % tensor.ndim]
