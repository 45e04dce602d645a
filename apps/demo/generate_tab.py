"""Generate: a prompt, a stack of rules, and pictures that take shape before one's eyes."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
from PIL import Image

from apps.demo import figures
from apps.demo.drawing import Drawn, drawing
from apps.demo.forms import MAX_SEED, DrawRequest, Request, checked
from apps.demo.metadata import read_request, settings_of
from apps.demo.model import SCHEDULERS, Model, Models
from apps.demo.page import SMALL, progress, run_on_click, spoken, status
from apps.demo.session import Session, Sessions
from apps.demo.stack import build
from apps.demo.watch import Stopped
from apps.demo.widgets import rule_stack, stack_choices
from apps.generate import Job
from apps.pictures import write_png
from apps.pipelines import cut_tokens
from guidance import Rule

EXAMPLES = (
    "a large striped red star on a blue background",
    "a small dotted purple heart on a white background",
    "a large solid green ring on the left and a small dotted white heart on the right on a red "
    "background",
)


@dataclass(frozen=True)
class Fields:
    """The form, in the order of ``DrawRequest``'s fields."""

    model: gr.Dropdown
    prompt: gr.Textbox
    negative: gr.Textbox
    stack: gr.HTML
    steps: gr.Slider
    pictures: gr.Slider
    seed: gr.Number
    scheduler: gr.Dropdown

    @property
    def inputs(self) -> list[Any]:
        return list(vars(self).values())


def form(models: Models) -> Fields:
    """The fields of a request, with the first model chosen."""
    first = models[models.names[0]]
    model = gr.Dropdown(list(models.names), value=first.name, label="Model")
    prompt = gr.Textbox(EXAMPLES[0], label="Prompt", lines=2, max_length=1000)
    gr.Examples(
        [[text] for text in EXAMPLES[1:]], prompt, label="Examples", api_visibility="private"
    )
    negative = gr.Textbox(
        label="Negative prompt",
        info="What guidance moves away from. Several with weights: the rule PerpNeg.",
        max_length=1000,
    )
    gr.Markdown("#### Guidance rules, applied from top to bottom")
    stack = rule_stack(first)
    with gr.Row():
        steps = gr.Slider(1, 100, 25, step=1, label="Steps", min_width=120)
        pictures = gr.Slider(1, 8, 4, step=1, label="Pictures", min_width=120)
    with gr.Row():
        seed = gr.Number(
            0, precision=0, minimum=0, maximum=MAX_SEED, label="Seed of the first", min_width=120
        )
        scheduler = gr.Dropdown(
            list(SCHEDULERS), value=SCHEDULERS[0], label="Sampler", min_width=120
        )
    return Fields(model, prompt, negative, stack, steps, pictures, seed, scheduler)


def build_tab(models: Models, sessions: Sessions) -> Fields:
    """Lay out the tab and wire it; returns its form for other tabs."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            fields = form(models)
            dice = gr.Button("Another seed", size="sm")
            with gr.Accordion("Take the settings from a picture", open=False):
                source = gr.File(
                    label="PNG file of diffusteer", file_types=[".png"], type="filepath", height=90
                )
        with gr.Column(scale=6, min_width=320):
            with gr.Row():
                go = gr.Button("Generate", variant="primary", scale=3)
                halt = gr.Button("Stop", variant="stop", scale=1, interactive=False)
            said = gr.HTML(status(""), elem_classes="status")
            gallery = gr.Gallery(
                label="Pictures",
                columns=2,
                object_fit="contain",
                height="auto",
                format="png",
                interactive=False,
                buttons=["download", "fullscreen"],
                elem_classes=["pictures", "small-pictures"],
            )
            chosen = gr.Textbox(
                label="Settings of the picture that you select",
                lines=3,
                interactive=False,
                elem_classes="settings",
                buttons=["copy"],
            )
            with gr.Accordion("What happened at each step", open=False):
                plot = gr.Plot(show_label=False)
            pack = gr.DownloadButton("Download pictures and report", interactive=False)

    def generate(session: Session, stop: Event, *values: Any) -> Iterator[tuple[Any, ...]]:
        with spoken():
            wanted = checked(DrawRequest, dict(zip(vars(fields), values, strict=True)))
            model = models[wanted.model]
            yield from generating(model, wanted, build(wanted.stack, model), session, stop)

    outputs = [said, gallery, plot, chosen, pack]
    run_on_click(go, halt, sessions, generate, fields.inputs, outputs, "generate")

    def settings(request: gr.Request, event: gr.SelectData) -> str:
        drawn = sessions.of(request).drawn
        if not isinstance(event.index, int) or not 0 <= event.index < len(drawn):
            return ""
        with Image.open(drawn[event.index]) as image:
            return str(image.info.get("parameters", ""))

    gallery.select(settings, None, chosen, queue=False, api_visibility="private")

    def restore(path: str | None) -> list[Any]:
        if path is None:
            return [gr.skip()] * len(fields.inputs)
        with spoken():
            found = read_request(path, models).model_dump(mode="json")
        return [found[name] for name in vars(fields)]

    source.upload(restore, source, fields.inputs, api_name="read_settings", concurrency_limit=1)

    def fit(name: str) -> Any:
        with spoken():
            return gr.HTML(**stack_choices(models[name]))

    quick: dict[str, Any] = {"queue": False, "api_visibility": "private"}
    fields.model.change(fit, fields.model, fields.stack, **quick)
    dice.click(lambda: random.randrange(MAX_SEED // 2), None, fields.seed, **quick)
    return fields


def generating(
    model: Model, wanted: DrawRequest, rule: Rule | None, session: Session, stop: Event
) -> Iterator[tuple[Any, ...]]:
    """Draw, with news of the status line, the gallery, the plot, the settings and the download."""
    warn_of_cut(model, wanted)
    jobs = [Job(wanted.prompt, wanted.seed + number) for number in range(wanted.pictures)]
    nothing = gr.skip()
    yield status("Starting …", 0), [], None, "", gr.DownloadButton(interactive=False)
    try:
        for news in drawing(model, wanted, rule, jobs, stop):
            if isinstance(news, Drawn):
                made = news
            else:
                pictures = list(news.previews) if news.previews else nothing
                yield progress("Drawing", news), pictures, nothing, nothing, nothing
    except Stopped:
        yield status("Stopped."), nothing, nothing, nothing, nothing
        return
    with model.scheduled(wanted.scheduler):
        common = settings_of(wanted, model, rule)
    files = _write(session, jobs, made, common)
    session.drawn = tuple(files)
    classes = ["pictures", "small-pictures"] if max(made.images[0].size) <= SMALL else ["pictures"]
    labelled = [(str(path), f"seed {job.seed}") for path, job in zip(files, jobs, strict=True)]
    shown = (
        status(
            f"{len(files)} pictures in {made.seconds:.1f} s, {made.report.nfe:g} evaluations each."
        ),
        gr.Gallery(labelled, elem_classes=classes),
    )
    yield *shown, nothing, nothing, nothing  # the plot takes a moment
    pack = gr.DownloadButton(value=str(_pack(session, files, made)), interactive=True)
    yield *shown, figures.steps(made), nothing, pack


def warn_of_cut(model: Model, wanted: Request) -> None:
    """Say which texts are too long for the model."""
    for name, text in (("prompt", wanted.prompt), ("negative prompt", wanted.negative)):
        if cut := cut_tokens(model.pipe, text):
            gr.Warning(f"The {name} is too long for this model: its last {cut} tokens are cut.")


def _write(
    session: Session, jobs: Sequence[Job], made: Drawn, common: dict[str, Any]
) -> list[Path]:
    folder = session.place("drawn")
    files = []
    for number, (job, image) in enumerate(zip(jobs, made.images, strict=True)):
        path = folder / f"{number:03}-{job.seed}.png"
        size = {"width": image.width, "height": image.height}
        write_png(path, image, {**common, "seed": job.seed, **size})
        files.append(path)
    return files


def _pack(session: Session, files: Sequence[Path], made: Drawn) -> Path:
    folder = files[0].parent
    made.report.to_csv(folder / "report.csv")
    pack = folder / "diffusteer.zip"
    with zipfile.ZipFile(pack, "w") as archive:
        for path in (*files, folder / "report.csv"):
            archive.write(path, path.name)
    return pack
