"""Compare: rules, or values of one setting, against seeds, from the same noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from threading import Event
from typing import Any

import gradio as gr

from apps.compare.run import judged
from apps.demo.comparing import METHODS, MOST_ROWS, CompareRequest, sweepable
from apps.demo.drawing import Drawn, drawing
from apps.demo.forms import MAX_SEED, StackForm, checked
from apps.demo.generate_tab import EXAMPLES, Fields, warn_of_cut
from apps.demo.metadata import settings_of
from apps.demo.model import Model, Models
from apps.demo.page import empty, progress, run_on_click, spoken, status
from apps.demo.session import Session, Sessions
from apps.demo.stack import build
from apps.demo.table import Line, table, write
from apps.demo.watch import Stopped
from apps.generate import Job
from apps.rules import without_folders
from guidance import Rule

KINDS = (("Methods", "methods"), ("One setting of my rules, at several values", "setting"))
USUAL = ["No guidance", "CFG 4", "CFG 8", "APG 8"]


def build_tab(tab: gr.Tab, models: Models, sessions: Sessions, mine: Fields) -> None:
    """Lay out the tab and wire it.

    Args:
        mine: form of the Generate tab, whose rules can be compared too.
    """
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            model = gr.Dropdown(list(models.names), value=models.names[0], label="Model")
            prompt = gr.Textbox(EXAMPLES[2], label="Prompt", lines=2, max_length=1000)
            negative = gr.Textbox(label="Negative prompt", max_length=1000)
        with gr.Column(scale=4, min_width=320):
            kind = gr.Radio(list(KINDS), value="methods", label="Rows")
            methods = gr.Dropdown(
                list(METHODS),
                value=USUAL,
                multiselect=True,
                max_choices=MOST_ROWS,
                label="Methods",
                info=f"Up to {MOST_ROWS}. The first one is what the others are compared with.",
            )
            with gr.Row(visible=False) as sweep:
                setting = gr.Dropdown([], label="Setting", info="Of the rules in Generate.")
                values = gr.Textbox("1, 2, 4, 8", label="Values", info="With commas.")
        with gr.Column(scale=2, min_width=200):
            pictures = gr.Slider(1, 6, 4, step=1, label="Seeds")
            seed = gr.Number(0, precision=0, minimum=0, maximum=MAX_SEED, label="First seed")
            steps = gr.Slider(1, 100, 20, step=1, label="Steps")
    with gr.Row():
        go = gr.Button("Compare", variant="primary", scale=3)
        halt = gr.Button("Stop", variant="stop", scale=1, interactive=False)
        pack = gr.DownloadButton("Download all", interactive=False, scale=1)
    said = gr.HTML(status(""), elem_classes="status")
    grid = gr.HTML(
        empty("Each row is drawn from the same noise: what differs is the guidance."),
        apply_default_css=False,
    )

    fields: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "negative": negative,
        "kind": kind,
        "methods": methods,
        "setting": setting,
        "values": values,
        "pictures": pictures,
        "seed": seed,
        "steps": steps,
        "stack": mine.stack,
    }

    def compare(session: Session, stop: Event, *given: Any) -> Iterator[tuple[Any, ...]]:
        with spoken():
            wanted = checked(CompareRequest, dict(zip(fields, given, strict=True)))
            chosen = models[wanted.model]
            rules = {label: build(items, chosen) for label, items in wanted.rows().items()}
            yield from _run(chosen, wanted, rules, session, stop)

    run_on_click(go, halt, sessions, compare, [*fields.values()], [said, grid, pack], "compare")

    def show(chosen: str) -> list[Any]:
        return [gr.Dropdown(visible=chosen == "methods"), gr.Row(visible=chosen == "setting")]

    def offer(stack: Any, before: str | None) -> Any:
        with spoken():
            found = sweepable(checked(StackForm, {"stack": stack}).stack)
        known = [name for _, name in found]
        value = before if before in known else next(iter(known), None)
        return gr.Dropdown(found, value=value)

    quick: dict[str, Any] = {"queue": False, "api_visibility": "private"}
    kind.change(show, kind, [methods, sweep], **quick)
    tab.select(offer, [mine.stack, setting], setting, **quick)


def _run(
    model: Model,
    wanted: CompareRequest,
    rules: dict[str, Rule | None],
    session: Session,
    stop: Event,
) -> Iterator[tuple[Any, ...]]:
    """Draw row after row, with news of the status line, the table and the download."""
    warn_of_cut(model, wanted)
    jobs = [Job(wanted.prompt, wanted.seed + number) for number in range(wanted.pictures)]
    seeds = [job.seed for job in jobs]
    lines = [
        Line(label, without_folders(repr(rule)) if rule else "no guidance")
        for label, rule in rules.items()
    ]
    nothing = gr.skip()
    yield status("Starting …", 0), table(lines, seeds), gr.DownloadButton(interactive=False)
    for number, rule in enumerate(rules.values()):
        said = f"Row {number + 1} of {len(lines)}"
        try:
            for news in drawing(model, wanted, rule, jobs, stop):
                if isinstance(news, Drawn):
                    cells = news.cells(lines[number].label, jobs)
                    lines[number] = replace(lines[number], images=news.images, cells=cells)
                    yield nothing, table(lines, seeds), nothing
                elif news.previews:
                    lines[number] = replace(lines[number], images=news.previews)
                    yield progress(said, news), table(lines, seeds), nothing
                else:
                    yield progress(said, news), nothing, nothing
        except Stopped:
            lines[number] = replace(lines[number], images=())
            yield status(f"Stopped after {number} rows."), table(lines, seeds), nothing
            return
    lines = [replace(line, cells=tuple(judged(line.cells))) for line in lines]
    metadata = [settings_of(wanted, model, rule) for rule in rules.values()]
    pack = write(session.place("compared"), lines, metadata)
    session.drawn = tuple(sorted(pack.parent.glob("[0-9]*-*.png")))
    total = sum(cell.seconds for line in lines for cell in line.cells)
    yield (
        status(f"{len(lines)} rows of {len(seeds)} pictures in {total:.1f} s."),
        table(lines, seeds),
        gr.DownloadButton(value=str(pack), interactive=True),
    )
