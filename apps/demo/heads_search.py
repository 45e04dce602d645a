"""A search for the heads that serve an objective, with a map that fills as they are tried."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from threading import Event
from typing import Annotated, Any

import gradio as gr
from pydantic import Field

from apps.demo.forms import Request
from apps.demo.model import Model
from apps.demo.page import status
from apps.demo.streaming import stream
from apps.demo.watch import Stopped, watched
from apps.generate import Call
from apps.hunt.objectives import load_objective
from guidance import HeadSet, hunt
from guidance.head_set import Head, Heads
from guidance.hunting.progress import Progress

OBJECTIVES = {
    "agreement with the prompt (emblem-clip)": "clip",
    "recognisable emblems": "validity",
    "striped texture": "emblem:texture=striped",
    "large emblem": "emblem:size=large",
    "blue background": "emblem:background=blue",
}


class HuntRequest(Request):
    """A search for heads.

    Attributes:
        objective: one of ``OBJECTIVES``.
        k: heads to find.
    """

    objective: Annotated[str, Field(max_length=80)]
    k: Annotated[int, Field(ge=1, le=3)] = 1

    def objective_name(self) -> str:
        """The name by which ``load_objective`` knows it."""
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}")
        return OBJECTIVES[self.objective]


def searching(model: Model, wanted: HuntRequest, stop: Event) -> Iterator[tuple[Any, ...]]:
    """Search, with news of the status line and the map."""
    objective = load_objective(wanted.objective_name(), model.pipe.device.type)
    seeds = range(wanted.seed, wanted.seed + wanted.pictures)
    found: list[HeadSet] = []

    def work(emit: Any) -> None:
        call = Call(steps=wanted.steps, guided=False).arguments(model.pipe, 1)
        watch = watched(None, stop)
        found.append(
            hunt(
                model.pipe,
                objective,
                [wanted.prompt],
                seeds,
                k=wanted.k,
                guidance=watch,
                call=call,
                batch_size=len(seeds),
                on_progress=emit,
            )
        )

    yield status("Starting …", 0), gr.skip()
    try:
        for now in stream(work, stop):
            line = f"Round {len(now.rounds)} of {wanted.k}: {now.done} of {now.total} pictures"
            yield status(line, now.done / now.total), _map(now.heads, gains(now))
    except Stopped:
        yield status("Stopped."), gr.skip()
        return
    best = found[0].best()
    yield (
        status(
            f"Best: {', '.join(_names(best.heads))}: {best.scores[-1]:.3f} instead of "
            f"{best.baseline:.3f} without. They are chosen on the map now."
        ),
        _map(best.heads, gains(found[0])),
    )


def _map(found: Heads, gained: dict[Head, float]) -> Any:
    """The map with the heads that are found chosen, and with what all of them gained."""
    names = dict(zip(_names(gained), gained.values(), strict=True))
    return gr.HTML(value=_names(found), gains=json.dumps(names))


def _names(heads: Iterable[Head]) -> list[str]:
    return [f"{layer}:{head}" for layer, head in heads]


def gains(search: Progress | HeadSet) -> dict[Head, float]:
    """What each head added to the score of the heads before it, when it was tried last."""
    found: dict[Head, float] = {}
    before = search.baseline
    for scored in search.rounds:
        if scored and before is not None:
            found |= {head: score - before for head, score in scored.items()}
            before = max(scored.values())
    return found
