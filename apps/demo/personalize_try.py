"""Draw with a word that a visitor has trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from threading import Event
from typing import Annotated, Any

import gradio as gr
from pydantic import Field

from apps.demo.drawing import Drawn, drawing
from apps.demo.forms import Request
from apps.demo.model import Model
from apps.demo.page import progress, status
from apps.demo.session import Session
from apps.demo.watch import Stopped
from apps.generate import Job
from guidance import CFG
from personalize import load, unload


class TryRequest(Request):
    """Pictures with what was learned.

    Attributes:
        scale: of CFG.
        beta, temperature: of Perfusion's gates.
    """

    scale: Annotated[float, Field(ge=1, le=30)] = 4.0
    beta: Annotated[float, Field(ge=0, le=1)] = 0.75
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.1


def trial(
    model: Model, wanted: TryRequest, session: Session, stop: Event
) -> Iterator[tuple[Any, ...]]:
    """Draw with the learned file on the shared pipeline, and take it off again."""
    if session.learned is None:
        raise ValueError("nothing is learned yet: train first")
    jobs = [Job(wanted.prompt, wanted.seed + number) for number in range(wanted.pictures)]
    controls: dict[str, Any] = {"beta": wanted.beta, "temperature": wanted.temperature}
    perfusion = session.learned.name.startswith("perfusion")
    name = load(model.pipe, session.learned, **(controls if perfusion else {})).name
    try:
        yield status("Starting …", 0), []
        with closing(drawing(model, wanted, CFG(wanted.scale), jobs, stop)) as run:
            for news in run:
                if isinstance(news, Drawn):
                    line = f"{len(jobs)} pictures in {news.seconds:.1f} s."
                    yield status(line), list(news.images)
                else:
                    pictures = list(news.previews) if news.previews else gr.skip()
                    yield progress("Drawing", news), pictures
    except Stopped:
        yield status("Stopped."), gr.skip()
    finally:
        unload(model.pipe, name)
