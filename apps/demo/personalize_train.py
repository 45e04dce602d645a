"""Train a word, with news on the way."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
import pandas as pd

from apps.demo.model import Model
from apps.demo.page import status
from apps.demo.personalize_form import TrainRequest
from apps.demo.session import Session
from apps.demo.streaming import stream
from apps.demo.watch import Stopped
from personalize import train
from personalize.core.kinds import KINDS
from personalize.core.logbook import Progress

_PAUSE = 0.5


def training(
    model: Model, wanted: TrainRequest, photos: Path, session: Session, stop: Event
) -> Iterator[tuple[Any, ...]]:
    """Train on a pipeline of its own, with news of status, loss, pictures and the file."""
    folder, method, settings = session.place("trained"), wanted.trainer(), wanted.settings(model)
    losses: list[tuple[int, float]] = []
    last = 0.0

    def work(emit: Any) -> None:
        def tell(now: Progress) -> None:
            nonlocal last
            if stop.is_set():
                raise Stopped
            if math.isfinite(now.loss):
                losses.append((now.step, now.loss))
            if time.monotonic() - last > _PAUSE:
                last = time.monotonic()
                emit(now)

        place = model.pipe.device
        try:
            train(model.source, method, photos, folder, settings, on_progress=tell, device=place)
        except OSError:
            if stop.is_set():  # the visitor has gone, and the folder with them
                raise Stopped from None
            raise

    nothing = gr.skip()
    yield status("Loading …", 0), None, [], gr.DownloadButton(interactive=False)
    said = "Learned"
    shown: list[Path] = []
    try:
        for now in stream(work, stop):
            left = "" if math.isnan(now.seconds_left) else f", about {now.seconds_left:.0f} s left"
            line = f"{now.phase}: step {now.step} of {now.steps}{left}"
            found = _checks(folder)
            pictures = _labelled(found) if found != shown else nothing
            shown = found
            yield (
                status(line, now.step / now.steps),
                _curve(losses) if losses else nothing,
                pictures,
                nothing,
            )
    except Stopped:
        said = "Stopped: this is the last state that was kept"
    finally:
        if not photos.exists():  # the visitor has gone, and the trainer has made folders since
            shutil.rmtree(session.folder, ignore_errors=True)
    file = _learned(folder)
    if file is None:
        yield status("Stopped before there was anything to keep."), nothing, nothing, nothing
        return
    session.learned = file
    yield (
        status(f"{said}. Write {wanted.word} in the prompt below."),
        _curve(losses),
        _labelled(_checks(folder)),
        gr.DownloadButton(value=str(file), interactive=True),
    )


def _learned(folder: Path) -> Path | None:
    """The file of a run, or of the only checkpoint that it kept."""
    places = (folder, *folder.glob("checkpoint-*"))
    files = (place / kind.file for place in places for kind in KINDS.values())
    return next((file for file in files if file.exists()), None)


def _checks(folder: Path) -> list[Path]:
    return sorted((folder / "validation").glob("step-*.png"))


def _labelled(files: list[Path]) -> list[tuple[str, str]]:
    return [(str(path), f"step {int(path.stem.split('-')[1])}") for path in files]


def _curve(losses: list[tuple[int, float]]) -> pd.DataFrame:
    return pd.DataFrame(losses, columns=["step", "loss"])
