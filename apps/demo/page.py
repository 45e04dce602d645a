"""What the tabs have in common: errors in one line, progress, texts that are safe in a page."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr
import torch

from apps.demo.drawing import Look
from apps.demo.session import Sessions

SMALL = 128
"""Side in pixels up to which pictures are shown with sharp pixels."""


@contextmanager
def spoken() -> Iterator[None]:
    """Errors that a visitor can do something about, as a message on the page."""
    try:
        yield
    except (ValueError, TypeError, FloatingPointError) as error:
        raise problem(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise problem("out of memory; ask for fewer or smaller pictures") from error


def problem(text: str) -> gr.Error:
    """A message on the page, without a traceback in the log."""
    line = " ".join(text.split())
    return gr.Error(html.escape(line), title="This cannot be done", print_exception=False)


def status(text: str, done: float | None = None) -> str:
    """A line that says what happens, under a bar where there is progress."""
    bar = "" if done is None else f'<progress max="1" value="{done:.4f}"></progress>'
    return f"<div>{bar}<p>{html.escape(text)}</p></div>"


def progress(what: str, look: Look) -> str:
    """The status of a run."""
    left = f", about {look.left:.0f} s left" if look.left >= 1 else ""
    return status(f"{what}: {look.done:.0%}{left}", look.done)


def empty(text: str) -> str:
    """What stands where something will appear."""
    return f'<div class="empty">{html.escape(text)}</div>'


def run_on_click(
    go: gr.Button,
    halt: gr.Button,
    sessions: Sessions,
    work: Callable[..., Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    name: str,
) -> None:
    """Let a button start long work on the device, and another stop it, also while it waits in line.

    Args:
        work: generator of the outputs, given the session, its stop and the inputs.
        outputs: the status line first.
        name: of the endpoint.
    """
    quick: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    left = gr.Number(0, visible="hidden")

    def buttons(running: bool) -> list[Any]:
        return [gr.Button(interactive=not running), gr.Button(interactive=running)]

    def ask(request: gr.Request) -> list[Any]:
        sessions.of(request).ask(name)
        return buttons(True)

    def begin(request: gr.Request, *given: Any) -> Iterator[Any]:
        session = sessions.of(request)
        stop = session.begin(name)
        if stop.is_set():
            yield status("Stopped."), *[gr.skip()] * (len(outputs) - 1)
            return
        with sessions.device:  # a program that takes its request back leaves the line in mid-step
            yield from work(session, stop, *given)

    def stop(times: int, request: gr.Request) -> tuple[Any, ...]:
        if sessions.of(request).halt(name):
            return status("Stopped."), times + 1
        return gr.skip(), gr.skip()

    started = go.click(ask, None, [go, halt], **quick)
    ended = started.then(
        begin,
        list(inputs),
        list(outputs),
        api_name=name,
        show_progress="minimal",
        show_progress_on=outputs[0],
        concurrency_id="device",
        concurrency_limit=1,
    )
    for after in (ended.success, ended.failure):  # the page does not do ``then`` after an error
        after(lambda: buttons(False), None, [go, halt], **quick)
    halt.click(stop, left, [outputs[0], left], **quick)
    left.change(None, None, None, cancels=[ended], **quick)
