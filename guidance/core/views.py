"""What a rule sees of a denoiser call."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from guidance.core.clock import Clock, Tick, prediction_type
from guidance.core.family import Family
from guidance.core.plan import Evaluations
from guidance.core.prediction import PREDICTION_TYPES, Branch, Step
from guidance.core.solver import next_noise_level
from guidance.core.target import Target
from guidance.core.text import TextFeatures


class Views:
    """Makes the steps of a guide block.

    Args:
        target: what is guided.
        clock: of its runs.
    """

    def __init__(self, target: Target, clock: Clock) -> None:
        self._target, self._clock = target, clock
        self._text_features = TextFeatures(target.pipe)

    def step(
        self,
        tick: Tick,
        model: nn.Module,
        evaluations: Evaluations,
        memory: dict[Hashable, Any],
    ) -> Step:
        """The step of one denoiser call.

        Args:
            tick: where in the run it is.
            model: the denoiser that is called.
            evaluations: its outputs.
            memory: of the run.

        Raises:
            ValueError: the scheduler's prediction type is unknown.
        """
        target, family = self._target, self._target.denoisers[model]
        axis, x = family.channels, evaluations.sample
        kind = family.predicts or prediction_type(target.scheduler)
        if kind not in PREDICTION_TYPES:
            raise ValueError(
                f"prediction_type must be one of {', '.join(PREDICTION_TYPES)}, found {kind!r}"
            )
        scheduler, eta = target.scheduler, target.setting("eta") or 0.0
        native = family.native

        def guided(output: Tensor) -> Tensor:
            size = family.guided or min(output.shape[axis], x.shape[axis])
            shared = output.narrow(axis, 0, size)
            return signed(family, shared.float() if family.float32 else shared)

        def evaluate(branch: Branch) -> Tensor:
            return guided(evaluations.output(branch))

        def traced() -> tuple[Tensor, Tensor]:
            sample, output = evaluations.traced()
            with torch.enable_grad():
                return sample, guided(output)

        def at(share: float) -> Step:
            there = self._clock.at(share)

            def denoise(sample: Tensor, text: Mapping[str, Tensor] | None = None) -> Tensor:
                return guided(evaluations.denoised(sample, there.timestep, text))

            return replace(
                step,
                timestep=there.timestep,
                alpha=there.alpha,
                sigma=there.sigma,
                denoise=denoise,
            )

        step = Step(
            index=tick.index,
            count=tick.count,
            timestep=tick.timestep,
            alpha=tick.alpha,
            sigma=tick.sigma,
            x=x,
            channels=axis,
            prediction_type=kind,
            scheduler=type(scheduler).__name__,
            evaluator=evaluate,
            prepare=evaluations.prepare,
            denoise=lambda sample, text=None: guided(evaluations.denoised(sample, text=text)),
            traced=traced,
            at=at,
            after=self._clock.after,
            next_level=lambda: next_noise_level(scheduler, tick.timestep, tick.position, eta),
            guidance_scale=target.scale(model),
            prompts=target.prompts(evaluations.images),
            text_features=self._text_features,
            native=native and (lambda u, c, w: native(u, c, w, target.setting)),
            memory=memory,
        )
        return step


def signed(family: Family, tensor: Tensor) -> Tensor:
    """A prediction in the sign that the scheduler takes, or back."""
    return -tensor if family.negated else tensor
