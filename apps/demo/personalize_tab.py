"""Personalize: a word for what a few photos show, watched while it is learned, tried at once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Literal

import gradio as gr
import pandas as pd
from pydantic import Field, field_validator

from apps.demo.drawing import Drawn, drawing
from apps.demo.forms import MAX_SEED, Form, Request, checked
from apps.demo.model import Model, Models
from apps.demo.page import progress, run_on_click, spoken, status
from apps.demo.photos import examples, receive
from apps.demo.session import Session, Sessions
from apps.demo.streaming import stream
from apps.demo.watch import Stopped
from apps.generate import Job
from guidance import CFG
from personalize import Perfusion, TextualInversion, TrainSettings, ZOODiP, load, train, unload
from personalize.core.kinds import KINDS
from personalize.core.logbook import Progress
from personalize.core.method import Method

METHODS = {
    "textual inversion: a word, the model stays as it is": "textual-inversion",
    "Perfusion: a concept whose strength is set when drawing": "perfusion",
    "ZOODiP: a word by forward passes alone, in little memory": "zoodip",
}
MOST_PHOTOS = 50
CHECKS = 6
"""Times that pictures are drawn during a training."""
_PAUSE = 0.5


class TrainRequest(Form):
    """A training.

    Attributes:
        model: name of the model.
        method: one of ``METHODS``.
        word: to learn.
        start: a known word for what the photos show.
        steps: of the optimizer.
        rate: learning rate, 0 for the method's own.
        batch: photos of a step.
        check: prompt of the pictures that are drawn on the way, ``{}`` is the word.
    """

    model: Annotated[str, Field(max_length=200)]
    method: Literal["textual-inversion", "perfusion", "zoodip"]
    word: Annotated[str, Field(pattern=r"^<[\w-]{1,30}>$")]
    start: Annotated[str, Field(min_length=1, max_length=60)]
    steps: Annotated[int, Field(ge=1, le=2000)]
    rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    batch: Annotated[int, Field(ge=1, le=8)] = 4
    check: Annotated[str, Field(min_length=1, max_length=300)]

    @field_validator("check")
    @classmethod
    def _has_a_place(cls, check: str) -> str:
        if check.count("{}") != 1:
            raise ValueError("write {} once, where the learned word goes")
        return check

    def settings(self) -> TrainSettings:
        """For the trainer."""
        settings = TrainSettings(
            max_train_steps=self.steps,
            train_batch_size=self.batch,
            gradient_accumulation_steps=1,
            checkpointing_steps=max(1, self.steps // 10),
            checkpoints_total_limit=1,
            validation_prompt=self.check,
            num_validation_images=1,
            validation_steps=max(1, self.steps // CHECKS),
        )
        return settings if self.rate == 0 else settings.preferring({"learning_rate": self.rate})

    def trainer(self) -> Method:
        """The method with its settings."""
        match self.method:
            case "textual-inversion":
                return TextualInversion(self.word, initializer_token=self.start, num_vectors=1)
            case "perfusion":
                return Perfusion(self.word, super_category=self.start)
            case _:
                return ZOODiP(self.word, initializer_token=self.start, num_vectors=1)


class TryRequest(Request):
    """Pictures with what was learned.

    Attributes:
        scale: of CFG.
        beta, temperature: of Perfusion's gates.
    """

    scale: Annotated[float, Field(ge=1, le=30)] = 4.0
    beta: Annotated[float, Field(ge=0, le=1)] = 0.75
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.1


def build_tab(models: Models, sessions: Sessions) -> None:
    """Lay out the tab and wire it."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            photos = gr.Gallery(
                label="Photos of one thing (PNG, JPEG, WEBP or BMP)",
                file_types=[".png", ".jpg", ".jpeg", ".webp", ".bmp"],
                columns=5,
                height=150,
                interactive=True,
                format="png",
                sources=["upload"],
                elem_classes="small-pictures",
            )
            example = gr.Button(
                "Take five example photos: a ringed star, new to the model", size="sm"
            )
            model = gr.Dropdown(list(models.names), value=models.names[0], label="Model")
            method = gr.Dropdown([*METHODS.items()], value="perfusion", label="Method")
            with gr.Row():
                word = gr.Textbox(
                    "<my-thing>", label="Word to learn", info="In angle brackets.", min_width=140
                )
                start = gr.Textbox(
                    "star",
                    label="What it is like",
                    info="A word that the model knows.",
                    min_width=140,
                )
            check = gr.Textbox(
                "a large {} on a white background",
                label="Draw this on the way",
                info="{} is where the word goes.",
            )
            with gr.Row():
                steps = gr.Slider(1, 2000, 100, step=1, label="Steps", min_width=140)
                batch = gr.Slider(1, 8, 4, step=1, label="Photos at each step", min_width=140)
            rate = gr.Number(
                0, label="Learning rate", info="0: the method's own.", minimum=0, maximum=1
            )
        with gr.Column(scale=5, min_width=320):
            with gr.Row():
                go = gr.Button("Train", variant="primary", scale=3)
                halt = gr.Button("Stop", variant="stop", scale=1, interactive=False)
            said = gr.HTML(status(""), elem_classes="status")
            curve = gr.LinePlot(
                x="step",
                y="loss",
                height=180,
                label="Loss",
                show_label=True,
            )
            checks = gr.Gallery(
                label="What the word means so far",
                columns=6,
                height=150,
                format="png",
                interactive=False,
                elem_classes="small-pictures",
            )
            keep = gr.DownloadButton("Download the learned file", interactive=False)
            gr.Markdown("#### Try it")
            with gr.Row():
                prompt = gr.Textbox(
                    "a small <my-thing> on a yellow background",
                    label="Prompt",
                    max_length=1000,
                    scale=4,
                )
                seed = gr.Number(
                    0, precision=0, minimum=0, maximum=MAX_SEED, label="Seed", min_width=90
                )
            with gr.Row():
                scale = gr.Slider(1, 10, 4, step=0.5, label="CFG", min_width=120)
                beta = gr.Slider(0, 1, 0.75, step=0.05, label="Perfusion: threshold", min_width=120)
                temperature = gr.Slider(
                    0.01, 1, 0.1, step=0.01, label="Perfusion: softness", min_width=120
                )
            with gr.Row():
                attempt = gr.Button("Draw with the word", variant="primary", scale=3)
                end = gr.Button("Stop", variant="stop", scale=1, interactive=False)
            told = gr.HTML(status(""), elem_classes="status")
            tried = gr.Gallery(
                label="Pictures",
                columns=4,
                height=190,
                format="png",
                interactive=False,
                elem_classes="small-pictures",
            )

    fields: dict[str, Any] = {
        "model": model,
        "method": method,
        "word": word,
        "start": start,
        "steps": steps,
        "rate": rate,
        "batch": batch,
        "check": check,
    }

    def learn(session: Session, gallery: Any, *given: Any) -> Iterator[tuple[Any, ...]]:
        with spoken():
            wanted = checked(TrainRequest, dict(zip(fields, given, strict=True)))
            folder = session.place("photos")
            receive(gallery, folder, 1, MOST_PHOTOS)
            yield from _train(models[wanted.model], wanted, folder, session)

    inputs = [photos, *fields.values()]
    run_on_click(go, halt, sessions, learn, inputs, [said, curve, checks, keep], "train")

    trial_fields: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "seed": seed,
        "scale": scale,
        "beta": beta,
        "temperature": temperature,
    }

    def attempted(session: Session, *given: Any) -> Iterator[tuple[Any, ...]]:
        with spoken():
            wanted = checked(TryRequest, dict(zip(trial_fields, given, strict=True)))
            yield from _try(models[wanted.model], wanted, session)

    run_on_click(
        attempt, end, sessions, attempted, [*trial_fields.values()], [told, tried], "try_word"
    )

    def exemplify(request: gr.Request) -> list[str]:
        return examples(sessions.of(request).place("examples"))

    example.click(exemplify, None, photos, queue=False, api_visibility="private")


def _train(
    model: Model, wanted: TrainRequest, photos: Path, session: Session
) -> Iterator[tuple[Any, ...]]:
    """Train on a pipeline of its own, with news of status, loss, pictures and the file."""
    folder, method, settings = session.place("trained"), wanted.trainer(), wanted.settings()
    losses: list[tuple[int, float]] = []
    last = 0.0

    def work(emit: Any) -> None:
        def tell(now: Progress) -> None:
            nonlocal last
            if session.stop.is_set():
                raise Stopped
            if math.isfinite(now.loss):
                losses.append((now.step, now.loss))
            if time.monotonic() - last > _PAUSE:
                last = time.monotonic()
                emit(now)

        train(model.source, method, photos, folder, settings, on_progress=tell)

    nothing = gr.skip()
    yield status("Loading …", 0), None, [], gr.DownloadButton(interactive=False)
    said = "Learned"
    shown: list[Path] = []
    try:
        for now in stream(work, session.stop):
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


def _try(model: Model, wanted: TryRequest, session: Session) -> Iterator[tuple[Any, ...]]:
    """Draw with the learned file on the shared pipeline, and take it off again."""
    if session.learned is None:
        raise ValueError("nothing is learned yet: train first")
    jobs = [Job(wanted.prompt, wanted.seed + number) for number in range(wanted.pictures)]
    controls: dict[str, Any] = {"beta": wanted.beta, "temperature": wanted.temperature}
    perfusion = session.learned.name.startswith("perfusion")
    name = load(model.pipe, session.learned, **(controls if perfusion else {})).name
    try:
        yield status("Starting …", 0), []
        with closing(drawing(model, wanted, CFG(wanted.scale), jobs, session)) as run:
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
