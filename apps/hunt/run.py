"""One search from start to files."""

from __future__ import annotations

from apps.evaluate.pictures.processes import Processes
from apps.generate import Call
from apps.hunt.objectives import load_objective
from apps.hunt.settings import HuntSettings
from apps.pipelines import load_pipeline
from apps.rules import read_rule
from apps.sample import check_writable
from guidance import HeadSet, hunt
from guidance.hunting.progress import OnProgress


def run(settings: HuntSettings, on_progress: OnProgress | None = None) -> HeadSet:
    """Search, write the heads to ``settings.out`` and their heat map beside it, return them.

    Raises:
        ValueError, TypeError: a setting that cannot be carried out; nothing is written then.
    """
    rule = read_rule(settings.guidance) if settings.guided else None
    for folder in (settings.out.parent, settings.work):
        check_writable(folder)
    processes = Processes(settings.device)
    device = str(processes.device)
    objective = load_objective(settings.objective, device)
    pipe = load_pipeline(settings.model, device=device, dtype=settings.dtype)
    call = Call(
        steps=settings.steps,
        guided=settings.guided,
        height=settings.height,
        width=settings.width,
    ).arguments(pipe, 1)
    if "negative_prompt" in call:
        (call["negative_prompt"],) = call["negative_prompt"]
    found = hunt(
        pipe,
        objective,
        settings.prompts,
        range(settings.seed, settings.seed + settings.num_seeds),
        settings.layers,
        settings.k,
        settings.scale,
        settings.strength,
        guidance=rule,
        call=call,
        batch_size=settings.batch_size,
        folder=settings.work,
        on_progress=on_progress,
    )
    if processes.first:
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        found.plot(settings.out.with_suffix(".png"))
        found.save(settings.out)
    return found
