"""Guided pictures with a look at them on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from threading import Event

import torch
from PIL import Image
from torch import Tensor

from apps.compare.run import Cell
from apps.demo.forms import Request
from apps.demo.model import Model
from apps.demo.streaming import Emit, stream
from apps.demo.watch import watched
from apps.generate import Call, Job, generate
from guidance import COND, Report, Rule, Step, guide
from guidance.adaptive import cosine

PATIENCE = 4
"""Times that a preview takes which have to pass before the next one."""


@dataclass(frozen=True)
class Look:
    """Where a run is.

    Attributes:
        done: share of the run, from 0 to 1.
        seconds: since it began.
        previews: what the pictures would be if the run ended here; None for no news.
    """

    done: float
    seconds: float
    previews: tuple[Image.Image, ...] | None = None

    @property
    def left(self) -> float:
        """Seconds to the end at the speed so far."""
        return self.seconds / self.done * (1 - self.done) if self.done else 0.0


@dataclass(frozen=True)
class Drawn:
    """Pictures, and what was done at each step.

    Attributes:
        images: the pictures.
        report: of the guide block.
        turns: for each denoiser call the cosine of the guided and the conditional prediction.
        seconds: all of it.
    """

    images: tuple[Image.Image, ...]
    report: Report
    turns: tuple[float, ...]
    seconds: float

    def cells(self, label: str, jobs: Sequence[Job]) -> tuple[Cell, ...]:
        """The pictures as cells of a comparison, which share the time."""
        share = self.seconds / len(jobs)
        return tuple(
            Cell(label, job, image, self.report.nfe, share)
            for job, image in zip(jobs, self.images, strict=True)
        )


def drawing(
    model: Model, request: Request, rule: Rule | None, jobs: Sequence[Job], stop: Event
) -> Generator[Look | Drawn]:
    """Yield looks at a run while it lasts, and at the end what was drawn.

    Raises:
        Stopped: the visitor pressed stop.
        TypeError, ValueError: the rule or the request does not suit the model.
    """
    call = Call(
        steps=request.steps, guided=rule is not None, negative_prompt=request.negative or None
    )

    def work(emit: Emit[Look | Drawn]) -> None:
        with model.scheduled(request.scheduler):
            emit(draw(model, rule, jobs, call, stop, emit))

    yield from stream(work, stop)


def draw(
    model: Model,
    rule: Rule | None,
    jobs: Sequence[Job],
    call: Call,
    stop: Event,
    look: Callable[[Look], None],
) -> Drawn:
    """Draw all jobs in one batch.

    Raises:
        Stopped: at the first denoiser call after a stop.
        TypeError, ValueError: the rule or the call does not suit the model.
    """
    start = shown = time.monotonic()
    pause = 0.0
    turns: list[float] = []

    def see(step: Step, guided: Tensor) -> None:
        nonlocal shown, pause
        turns.append(float(cosine(guided, step.evaluate(COND)).mean()))
        now = time.monotonic()
        previews = None
        flat = guided.ndim == 4  # not in tokens or frames
        if model.decode is not None and flat and now - shown > pause and step.index:
            previews = _pictures(model.decode(step.x0(guided)))
            shown = time.monotonic()
            pause = PATIENCE * (shown - now)
        look(Look((step.index + 1) / step.count, time.monotonic() - start, previews))

    with guide(model.pipe, watched(rule, stop, see)) as run:
        images = tuple(generate(model.pipe, jobs, call, batch_size=len(jobs)))
    run.report.rule = repr(rule) if rule else "no guidance"
    return Drawn(images, run.report, tuple(turns), time.monotonic() - start)


@torch.no_grad()
def _pictures(pixels: Tensor) -> tuple[Image.Image, ...]:
    """Pictures ``(B, 3, height, width)`` in about [0, 1] as images."""
    whole = (pixels.float().clamp(0, 1) * 255).round().byte().movedim(1, -1).cpu().numpy()
    return tuple(Image.fromarray(each) for each in whole)
