"""Evaluate: numbers of pictures, with what they mean and how sure they are."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, get_ident
from typing import Any, Literal

import gradio as gr
import pandas as pd

from apps.demo import figures
from apps.demo.forms import Form, checked
from apps.demo.page import run_on_click, spoken, status
from apps.demo.photos import receive, world
from apps.demo.session import Session, Sessions
from apps.demo.streaming import Emit, stream
from apps.demo.watch import Stopped
from apps.evaluate.protocols.distribution import distribution
from apps.evaluate.protocols.emblem import emblem
from apps.evaluate.protocols.prompts import prompts
from apps.evaluate.result import Result, short
from apps.evaluate.settings import EvaluateSettings

PROTOCOLS = {
    "Distance to reference pictures: FID, KID, precision, recall": "distribution",
    "Agreement with the prompts in the files: CLIP": "prompts",
    "Truth of the Emblem world: is all right that the prompts state": "emblem",
}
LEAST_PICTURES, MOST_PICTURES = 6, 500


class EvaluateRequest(Form):
    """What to measure."""

    protocol: Literal["distribution", "prompts", "emblem"]


def build_tab(sessions: Sessions, device: str) -> None:
    """Lay out the tab and wire it."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            protocol = gr.Radio([*PROTOCOLS.items()], value="distribution", label="What to measure")
            made = _gallery("Generated pictures")
            last = gr.Button("Take those drawn last in Generate or Compare", size="sm")
            with gr.Column() as beside:
                real = _gallery("Reference pictures")
                fresh = gr.Button("Take 64 fresh pictures of the Emblem world", size="sm")
        with gr.Column(scale=6, min_width=320):
            with gr.Row():
                go = gr.Button("Evaluate", variant="primary", scale=3)
                halt = gr.Button("Stop", variant="stop", scale=1, interactive=False)
            said = gr.HTML(status(""), elem_classes="status")
            table = gr.Dataframe(
                headers=list(_table(None).columns),
                label="Scores",
                interactive=False,
                wrap=True,
                max_height=560,
                column_widths=["22%", "14%", "22%", "42%"],
            )
            plot = gr.Plot(show_label=False, visible=False)
            keep = gr.DownloadButton("Download the result", interactive=False)

    def evaluate(
        session: Session, stop: Event, kind: Any, generated: Any, reference: Any
    ) -> Iterator[Any]:
        with spoken():
            wanted = checked(EvaluateRequest, {"protocol": kind})
            place = session.place("evaluation")
            ours, theirs = place / "generated", place / "reference"
            sides = [(ours, generated)]
            if wanted.protocol == "distribution":
                sides.append((theirs, reference))
            for folder, gallery in sides:
                folder.mkdir()
                receive(gallery, folder, LEAST_PICTURES, MOST_PICTURES)
            found: list[Result] = []
            warned: list[str] = []

            def work(emit: Emit[str]) -> None:
                def tell(done: int, total: int, phase: str) -> None:
                    if stop.is_set():
                        raise Stopped
                    emit(status(f"{phase}: {done} of {total} pictures", done / total))

                settings = EvaluateSettings(device=device, cache=None, on_progress=tell)
                with _heard(warned), _named_within(place):
                    match wanted.protocol:
                        case "distribution":
                            found.append(distribution(ours, theirs, settings=settings))
                        case "prompts":
                            found.append(prompts(ours, settings=settings))
                        case _:
                            found.append(emblem(ours, settings=settings))

            yield (
                status("Measuring …", 0),
                _table(None),
                gr.Plot(visible=False),
                gr.DownloadButton(interactive=False),
            )
            try:
                for line in stream(work, stop):
                    yield line, gr.skip(), gr.skip(), gr.skip()
            except Stopped:
                yield status("Stopped."), gr.skip(), gr.skip(), gr.skip()
                return
            result = found[0]
            if result.images is not None:
                result = replace(result, images=replace(result.images, folder=ours.name))
            file = place / f"{result.protocol}.json"
            result.write(file)
            sure = sum(score.interval is not None for score in result.scores)
            lines = [f"{len(result.scores)} scores, {sure} of them with a 95 % interval."]
            lines += [f"Warning: {_within(place, text)}" for text in warned]
            yield (
                "".join(map(status, lines)),
                _table(result),
                gr.Plot(figures.scores(result), visible=True),
                gr.DownloadButton(value=str(file), interactive=True),
            )

    run_on_click(
        go, halt, sessions, evaluate, [protocol, made, real], [said, table, plot, keep], "evaluate"
    )

    def drawn(request: gr.Request) -> tuple[Any, str]:
        files = [str(path) for path in sessions.of(request).drawn]
        if files:
            return files, status("")
        return gr.skip(), status("Nothing is drawn yet: draw in Generate or Compare first.")

    def rendered(request: gr.Request) -> list[str]:
        return world(sessions.of(request).place("world"))

    quick: dict[str, Any] = {"queue": False, "api_visibility": "private"}
    last.click(drawn, None, [made, said], **quick)
    fresh.click(rendered, None, real, **quick)
    protocol.change(
        lambda kind: gr.Column(visible=kind == "distribution"), protocol, beside, **quick
    )


@contextmanager
def _heard(warned: list[str]) -> Iterator[None]:
    """What this thread warns of goes to a visitor, and not to the log of the server."""
    log, thread = logging.getLogger("diffusteer"), get_ident()

    def others(record: logging.LogRecord) -> bool:
        if record.thread == thread:
            warned.append(record.getMessage())
        return record.thread != thread

    log.addFilter(others)
    try:
        yield
    finally:
        log.removeFilter(others)


@contextmanager
def _named_within(place: Path) -> Iterator[None]:
    """Errors name folders of a visitor without what they are in."""
    try:
        yield
    except ValueError as error:
        raise ValueError(_within(place, str(error))) from error


def _within(place: Path, text: str) -> str:
    return text.replace(f"{place}{os.sep}", "")


def _gallery(label: str) -> gr.Gallery:
    return gr.Gallery(
        label=f"{label} (PNG, JPEG, WEBP or BMP)",
        file_types=[".png", ".jpg", ".jpeg", ".webp", ".bmp"],
        columns=4,
        height=190,
        interactive=True,
        format="png",
        sources=["upload"],
        elem_classes="small-pictures",
    )


def _table(result: Result | None) -> pd.DataFrame:
    rows = [
        (
            score.metric,
            short(score.value),
            "" if score.interval is None else " to ".join(map(short, score.interval)),
            score.about,
        )
        for score in (result.scores if result else ())
    ]
    return pd.DataFrame(rows, columns=["metric", "value", "95 % interval", "what it is"])
