"""``diffusteer compare``: rules side by side on the same noise."""

from __future__ import annotations

import json
import logging
from typing import Annotated

import typer

from apps.compare.settings import CompareSettings, read_seeds
from apps.errors import SayWarnings, one_line_errors, speaks
from apps.options import (
    AsJson,
    BatchSize,
    Device,
    Dtype,
    Folder,
    Height,
    Learned,
    Metadata,
    Model,
    NegativePrompt,
    Prompt,
    Prompts,
    Scheduler,
    Steps,
    Verbose,
    Width,
)
from apps.progress import progress_bar
from apps.quiet import quiet
from apps.settings import DEFAULT_MODEL, chosen_prompts


def compare(
    rules: Annotated[
        list[str],
        typer.Option(
            metavar="RULE",
            help='Such as "CFG(6) + Rescale(0.7)", or none; repeat for several.',
        ),
    ],
    prompt: Prompt = None,
    prompts: Prompts = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="SETTING=VALUES",
            help="A setting of the rules at several values, such as CFG.scale=2,4,6.",
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="SEEDS", help="Of the noise, such as 0-3 or 1,5,9.")
    ] = "0-3",
    difference: Annotated[
        bool, typer.Option("--difference", help="Also draw what changes on the first rule.")
    ] = False,
    model: Model = DEFAULT_MODEL,
    negative_prompt: NegativePrompt = None,
    steps: Steps = 25,
    batch_size: BatchSize = 4,
    height: Height = None,
    width: Width = None,
    scheduler: Scheduler = None,
    learned: Learned = None,
    out: Folder = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    metadata: Metadata = True,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Draw several rules on the same noise: a page of pictures, and a table of what they cost.

    Example, with the model that comes along:

        [bold]diffusteer compare "a red star" --rules none --rules "CFG(4)" --rules "APG(7)"[/bold]

    The same rule at several scales, and what changes from the first:

        [bold]diffusteer compare "a red star" --rules "CFG + Rescale(0.7)"
        --sweep CFG.scale=2,4,6 --difference[/bold]

    grid.png has a row for each rule and a column for each seed; compare.csv has evaluations,
    seconds and, for captions of the Emblem world, whether the picture shows what they state.
    """
    logging.getLogger("diffusteer").handlers = [SayWarnings()]
    with one_line_errors(verbose):
        settings = CompareSettings(
            prompts=chosen_prompts(prompt, prompts),
            rules=tuple(rules),
            sweep=sweep,
            seeds=read_seeds(seeds),
            difference=difference,
            out=out,
            model=model,
            negative_prompt=negative_prompt,
            steps=steps,
            batch_size=batch_size,
            height=height,
            width=width,
            scheduler=scheduler,
            learned=tuple(learned or ()),
            device=device,
            dtype=dtype,
            metadata=metadata,
        )
        with progress_bar() as show:
            if not verbose:
                quiet()
            from apps.compare.run import compare as make  # loads torch: not for --help

            result = make(settings, show)
        if speaks() and as_json:
            typer.echo(json.dumps(result.report, ensure_ascii=False))
        elif speaks():
            typer.echo(f"{len(result.cells)} pictures, see {result.grid} and {result.table}")
