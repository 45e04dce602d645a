"""``diffusteer train linear-ag``: the coefficients that LinearAG estimates predictions with."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from apps.errors import SayWarnings, one_line_errors
from apps.options import AsJson, Device, Dtype, Height, Model, Scheduler, Steps, Verbose, Width
from apps.progress import progress_bar
from apps.quiet import quiet
from apps.settings import DEFAULT_MODEL, MAX_SEED, DrawSettings, check_whole, read_prompts

_KEPT = ("height", "width", "negative_prompt")
"""Arguments of the pipeline's call that the fit does not set itself."""


def linear_ag(
    prompts: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Prompts to fit on: one per line, or the text of each row of a .jsonl. "
            "The paper uses 200.",
        ),
    ],
    scale: Annotated[float, typer.Option(help="Guidance scale to fit for, above 1.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSON file to write.")] = Path(
        "out/linear-ag.json"
    ),
    model: Model = DEFAULT_MODEL,
    steps: Steps = 25,
    scheduler: Scheduler = None,
    height: Height = None,
    width: Width = None,
    seed: Annotated[int, typer.Option(help="Of the noise of all pictures.")] = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Fit LinearAG, which estimates unconditional predictions, for one setting of a model.

    Example, with the model that comes along and a file of prompts:

        [bold]diffusteer train linear-ag --prompts prompts.txt --scale 4[/bold]

    Pictures are then drawn with the same model, scheduler, steps, scale and size:

        [bold]diffusteer sample "a red star" --guidance "LinearAG(4, 'out/linear-ag.json')"[/bold]
    """
    logging.getLogger("diffusteer").handlers = [SayWarnings()]
    with one_line_errors(verbose, "stopped; nothing was written"), progress_bar() as show:
        if out.is_dir() or out.suffix != ".json":
            raise ValueError(f"out must be a .json file to write, found {str(out)!r}")
        check_whole("seed", seed, 0, MAX_SEED)
        settings = DrawSettings(
            prompts=read_prompts(prompts),
            model=model,
            steps=steps,
            scheduler=scheduler,
            height=height,
            width=width,
            device=device,
            dtype=dtype,
        )
        if not verbose:
            quiet()
        import torch

        from apps.sample import call_of, check_writable, open_pipeline
        from guidance import fit_linear_ag

        check_writable(out.parent)
        pipe = open_pipeline(settings, device)
        call = call_of(settings, guided=True).arguments(pipe, 1)
        out.parent.mkdir(parents=True, exist_ok=True)
        rule = fit_linear_ag(
            pipe,
            settings.prompts,
            scale,
            steps,
            out,
            generator=torch.Generator().manual_seed(seed),
            call={name: value for name, value in call.items() if name in _KEPT},
            on_progress=show,
        )
    if as_json:
        made = {"file": str(out), "rule": repr(rule), "prompts": len(settings.prompts)}
        typer.echo(json.dumps(made, ensure_ascii=False))
    else:
        typer.echo(f"{out}: {rule!r}, fitted on {len(settings.prompts)} prompts")
