"""Heads: soften attention heads by a click, or search for those that serve an objective."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from threading import Event
from typing import Annotated, Any

import gradio as gr
from pydantic import Field, field_validator

from apps.demo.drawing import Drawn, drawing
from apps.demo.forms import MAX_SEED, Request, checked
from apps.demo.generate_tab import EXAMPLES, warn_of_cut
from apps.demo.heads_search import OBJECTIVES, HuntRequest, searching
from apps.demo.model import Model, Models
from apps.demo.page import empty, progress, run_on_click, spoken, status
from apps.demo.session import Session, Sessions
from apps.demo.table import Line, table
from apps.demo.watch import Stopped
from apps.demo.widgets import NO_GAINS, head_map, map_choices, usual_heads
from apps.generate import Job
from guidance import CFG, Rule, SoftPAG

MOST_HEADS = 512

Chosen = Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=MOST_HEADS)]


class SoftenRequest(Request):
    """Pictures without and with softened heads.

    Attributes:
        heads: as ``LAYER:HEAD``.
        scale, strength: of SoftPAG.
        beside: scale of CFG beside it, 1 for none.
    """

    heads: Chosen
    scale: Annotated[float, Field(ge=0, le=30)] = 3.0
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    beside: Annotated[float, Field(ge=1, le=30)] = 4.0

    @field_validator("heads")
    @classmethod
    def _some(cls, heads: list[str]) -> list[str]:
        if not heads:
            raise ValueError("click at least one head on the map")
        return heads

    def rules(self, model: Model) -> tuple[Rule | None, Rule]:
        """The rule without, and the rule with softened heads."""
        for name in self.heads:
            layer, _, head = name.rpartition(":")
            if head not in map(str, range(model.layers.get(layer, 0))):
                raise ValueError(f"{model.name} has no head {name!r:.80}; click heads on the map")
        plain = CFG(self.beside) if self.beside > 1 else None
        softened = SoftPAG(self.scale, heads=tuple(self.heads), strength=self.strength)
        return plain, softened if plain is None else plain + softened


def build_tab(models: Models, sessions: Sessions) -> None:
    """Lay out the tab and wire it."""
    first = models[models.names[0]]
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            model = gr.Dropdown(list(models.names), value=first.name, label="Model")
            prompt = gr.Textbox(EXAMPLES[0], label="Prompt", lines=2, max_length=1000)
            gr.Markdown(
                "#### Heads to soften\nEach row is a self-attention layer, each number one of its "
                "heads. Guidance moves away from what the model draws with those heads weakened."
            )
            heads = head_map(first)
        with gr.Column(scale=7, min_width=320):
            with gr.Row():
                scale = gr.Slider(0, 10, 3, step=0.5, label="Scale", min_width=140)
                strength = gr.Slider(0, 1, 1, step=0.1, label="Strength", min_width=140)
                beside = gr.Slider(1, 10, 1, step=0.5, label="CFG", min_width=140)
            with gr.Row():
                pictures = gr.Slider(1, 6, 3, step=1, label="Seeds", min_width=140)
                steps = gr.Slider(1, 100, 20, step=1, label="Steps", min_width=140)
                seed = gr.Number(
                    0, precision=0, minimum=0, maximum=MAX_SEED, label="First seed", min_width=140
                )
            with gr.Row():
                go = gr.Button("Draw without and with", variant="primary", scale=3)
                halt = gr.Button("Stop", variant="stop", scale=1, interactive=False)
            said = gr.HTML(status(""), elem_classes="status")
            grid = gr.HTML(
                empty("The same noise, without and with the softened heads."),
                apply_default_css=False,
            )
    with gr.Accordion("Search for heads (HeadHunter)", open=False):
        gr.Markdown(
            "Tries every head alone, keeps the best, tries every other beside it. The map shows "
            "what each head gained when it was tried last: blue is better, red is worse. Pictures "
            "are of the prompt above."
        )
        with gr.Row():
            objective = gr.Dropdown(
                list(OBJECTIVES), value=next(iter(OBJECTIVES)), label="What to improve", scale=2
            )
            k = gr.Slider(1, 3, 1, step=1, label="Heads to find")
            seeds = gr.Slider(1, 8, 2, step=1, label="Pictures of each trial")
            quickly = gr.Slider(4, 30, 8, step=1, label="Steps")
        with gr.Row():
            seek = gr.Button("Search", variant="primary", scale=3)
            end = gr.Button("Stop the search", variant="stop", scale=1, interactive=False)
        told = gr.HTML(status(""), elem_classes="status")

    fields: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "heads": heads,
        "scale": scale,
        "strength": strength,
        "beside": beside,
        "pictures": pictures,
        "steps": steps,
        "seed": seed,
    }
    search_fields: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "objective": objective,
        "k": k,
        "pictures": seeds,
        "steps": quickly,
    }

    def soften(session: Session, stop: Event, *given: Any) -> Iterator[tuple[Any, ...]]:
        with spoken():
            wanted = checked(SoftenRequest, dict(zip(fields, given, strict=True)))
            chosen = models[wanted.model]
            yield from softening(chosen, wanted, stop)

    run_on_click(go, halt, sessions, soften, [*fields.values()], [said, grid], "soften")

    def search(session: Session, stop: Event, *given: Any) -> Iterator[tuple[Any, ...]]:
        with spoken():
            wanted = checked(HuntRequest, dict(zip(search_fields, given, strict=True)))
            chosen = models[wanted.model]
            yield from searching(chosen, wanted, stop)

    run_on_click(seek, end, sessions, search, [*search_fields.values()], [told, heads], "search")

    def fit(name: str) -> Any:
        with spoken():
            chosen = models[name]
        return gr.HTML(value=usual_heads(chosen), gains=NO_GAINS, **map_choices(chosen))

    model.change(fit, model, heads, queue=False, api_visibility="private")


def softening(model: Model, wanted: SoftenRequest, stop: Event) -> Iterator[tuple[Any, ...]]:
    """Draw without and with the heads softened, with news of the status line and the table."""
    warn_of_cut(model, wanted)
    jobs = [Job(wanted.prompt, wanted.seed + number) for number in range(wanted.pictures)]
    seeds = [job.seed for job in jobs]
    lines = [Line("without"), Line("with softened heads")]
    for number, rule in enumerate(wanted.rules(model)):
        try:
            for news in drawing(model, wanted, rule, jobs, stop):
                if isinstance(news, Drawn):
                    cells = news.cells(lines[number].label, jobs)
                    lines[number] = replace(lines[number], images=news.images, cells=cells)
                    yield gr.skip(), table(lines, seeds)
                else:
                    if news.previews:
                        lines[number] = replace(lines[number], images=news.previews)
                    yield progress(f"Drawing {lines[number].label}", news), table(lines, seeds)
        except Stopped:
            yield status("Stopped."), gr.skip()
            return
    yield status(f"{len(wanted.heads)} heads softened."), gr.skip()
