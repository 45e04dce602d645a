"""Personalize: a word for what a few photos show, watched while it is learned, tried at once."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event
from typing import Any

import gradio as gr

from apps.demo.forms import MAX_SEED, checked
from apps.demo.model import Models
from apps.demo.page import run_on_click, spoken, status
from apps.demo.personalize_form import METHODS, TrainRequest, caption, pace
from apps.demo.personalize_train import training
from apps.demo.personalize_try import TryRequest, trial
from apps.demo.photos import examples, receive
from apps.demo.session import Session, Sessions

MOST_PHOTOS = 50
FIRST = "textual-inversion"
"""The method that is chosen at first."""


def build_tab(models: Models, sessions: Sessions) -> None:
    """Lay out the tab and wire it."""
    first = pace(models.names[0], FIRST)
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
                "Take five example photos: a shaded heart, new to the model", size="sm"
            )
            model = gr.Dropdown(list(models.names), value=models.names[0], label="Model")
            method = gr.Dropdown([*METHODS.items()], value=FIRST, label="Method")
            with gr.Row():
                word = gr.Textbox(
                    "<my-thing>", label="Word to learn", info="In angle brackets.", min_width=140
                )
                start = gr.Textbox(
                    "heart",
                    label="What it is like",
                    info="A word that the model knows.",
                    min_width=140,
                )
            text = gr.Textbox(
                first.text,
                label="Caption of photos that have none",
                info="{} is where the word goes; empty: captions that the method chooses.",
            )
            check = gr.Textbox(
                "a large {} on a white background",
                label="Draw this on the way",
                info="{} is where the word goes.",
            )
            with gr.Row():
                steps = gr.Slider(1, 2000, first.steps, step=1, label="Steps", min_width=140)
                batch = gr.Slider(
                    1, 8, first.batch, step=1, label="Photos at each step", min_width=140
                )
            rate = gr.Number(
                first.rate, label="Learning rate", info="0: the method's own.", minimum=0, maximum=1
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
                columns=5,
                height=150,
                format="png",
                interactive=False,
                elem_classes="small-pictures",
            )
            keep = gr.DownloadButton("Download the learned file", interactive=False)
            gr.Markdown("#### Try it")
            with gr.Row():
                prompt = gr.Textbox(
                    "a small <my-thing> on a pink background",
                    label="Prompt",
                    lines=2,
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
                end = gr.Button("Stop drawing", variant="stop", scale=1, interactive=False)
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
        "text": text,
        "steps": steps,
        "rate": rate,
        "batch": batch,
        "check": check,
    }

    def learn(
        session: Session, stop: Event, gallery: Any, *given: Any
    ) -> Iterator[tuple[Any, ...]]:
        with spoken():
            wanted = checked(TrainRequest, dict(zip(fields, given, strict=True)))
            folder = session.place("photos")
            files = receive(gallery, folder, 1, MOST_PHOTOS)
            caption(files, gallery, wanted.text)
            yield from training(models[wanted.model], wanted, folder, session, stop)

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

    def attempted(session: Session, stop: Event, *given: Any) -> Iterator[tuple[Any, ...]]:
        with spoken():
            wanted = checked(TryRequest, dict(zip(trial_fields, given, strict=True)))
            yield from trial(models[wanted.model], wanted, session, stop)

    run_on_click(
        attempt, end, sessions, attempted, [*trial_fields.values()], [told, tried], "try_word"
    )

    def follow(name: str, chosen: str) -> list[Any]:
        found = pace(name, chosen)
        return [found.steps, found.batch, found.rate, found.text]

    gr.on(
        [model.change, method.change],
        follow,
        [model, method],
        [steps, batch, rate, text],
        queue=False,
        api_visibility="private",
    )

    def exemplify(request: gr.Request) -> list[tuple[str, str]]:
        return examples(sessions.of(request).place("examples"))

    example.click(exemplify, None, photos, queue=False, api_visibility="private")
