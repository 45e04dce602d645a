"""Pictures from a pipeline, batch by batch, each of them independent of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from apps.pipelines import call_parameters

Progress = Callable[[float], None]
"""Called with the number of pictures done so far, fractional within a batch."""


@dataclass(frozen=True)
class Job:
    """One picture to make."""

    prompt: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Call:
    """What all pictures have in common.

    Attributes:
        steps: denoising steps.
        guided: ask the pipeline for the unconditional rows that a guide block needs; the strength
            of guidance is then the rule's.
        negative_prompt, height, width: None leaves them to the pipeline.
    """

    steps: int
    guided: bool
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None

    def arguments(self, pipe: Any, count: int) -> dict[str, Any]:
        """Arguments of the pipeline's call for a batch of ``count`` pictures.

        Raises:
            ValueError: the pipeline does not take one of them.
        """
        taken = call_parameters(pipe)
        given: dict[str, Any] = {"num_inference_steps": self.steps}
        given |= {name: getattr(self, name) for name in ("height", "width") if getattr(self, name)}
        two_calls = "true_cfg_scale" in taken  # such pipelines guide only with a negative prompt
        switch = "true_cfg_scale" if two_calls else "guidance_scale"
        if switch in taken:
            given[switch] = _switched_on(taken[switch]) if self.guided else 1.0
        negative = "" if two_calls and self.negative_prompt is None else self.negative_prompt
        if self.guided and negative is not None:
            given["negative_prompt"] = [negative] * count
        if unknown := set(given) - set(taken):
            raise ValueError(f"{type(pipe).__name__} takes no {', '.join(sorted(unknown))}")
        return given


def _switched_on(default: Any) -> float:
    """The pipeline's own scale, for rules that read it, or one that asks for the rows at all."""
    return default if isinstance(default, float | int) and default > 1 else 2.0


def generate(
    pipe: Any,
    jobs: Sequence[Job],
    call: Call,
    *,
    batch_size: int = 4,
    on_progress: Progress | None = None,
) -> Iterator[Image.Image]:
    """Yield the pictures of the jobs in order.

    Each has a generator of its own, on the CPU, so that it depends neither on its batch nor on the
    device, beyond the last bits of floating point arithmetic.

    Raises:
        ValueError: the pipeline cannot carry out the call, or makes no pictures.
    """
    report = on_progress or (lambda done: None)
    for start in range(0, len(jobs), batch_size):
        batch = jobs[start : start + batch_size]
        result = pipe(
            prompt=[job.prompt for job in batch],
            generator=[torch.Generator().manual_seed(job.seed) for job in batch],
            **call.arguments(pipe, len(batch)),
            **_step_counter(pipe, call.steps, start, len(batch), report),
        )
        if getattr(result, "images", None) is None:
            raise ValueError(f"{type(pipe).__name__} makes no pictures: use a text-to-image model")
        report(start + len(batch))
        yield from result.images


def _step_counter(
    pipe: Any, steps: int, start: int, size: int, report: Progress
) -> dict[str, Callable[..., dict[str, Any]]]:
    """Argument that reports progress after each step, for pipelines that can."""
    if "callback_on_step_end" not in call_parameters(pipe):
        return {}

    def count(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        report(start + size * min(1.0, (step + 1) / steps))
        return tensors

    return {"callback_on_step_end": count}
