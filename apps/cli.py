"""The ``diffusteer`` command."""

from __future__ import annotations

import json
import logging
from importlib.metadata import version
from typing import Annotated

import typer

from apps.bench.cli import app as bench
from apps.claims.cli import app as claims
from apps.compare.cli import compare
from apps.demo.cli import demo
from apps.errors import OneLineErrors, SayWarnings, one_line_errors, speaks
from apps.evaluate.cli import app as evaluate
from apps.hub.cli import push
from apps.hunt.cli import hunt
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
from apps.settings import DEFAULT_GUIDANCE, DEFAULT_MODEL, SampleSettings, chosen_prompts
from apps.train.cli import app as train

app = typer.Typer(cls=OneLineErrors, pretty_exceptions_enable=False, rich_markup_mode="rich")
app.add_typer(bench, name="bench")
app.add_typer(claims, name="claims")
app.add_typer(evaluate, name="evaluate")
app.add_typer(train, name="train")
app.command()(compare)
app.command()(demo)
app.command()(hunt)
app.command()(push)


@app.callback(invoke_without_command=True)
def diffusteer(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.")
    ] = False,
) -> None:
    """Guidance and personalization for ordinary diffusers pipelines."""
    if show_version:
        print(version("diffusteer"))
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def sample(
    prompt: Prompt = None,
    prompts: Prompts = None,
    model: Model = DEFAULT_MODEL,
    guidance: Annotated[
        str, typer.Option(metavar="RULE", help='Such as "CFG(6) + Rescale(0.7)", or none.')
    ] = DEFAULT_GUIDANCE,
    negative_prompt: NegativePrompt = None,
    steps: Steps = 25,
    seed: Annotated[
        int, typer.Option(help="Of the first picture of a prompt; the next one has seed + 1.")
    ] = 0,
    vary_seed: Annotated[
        bool, typer.Option("--vary-seed", help="Let picture n of all prompts have seed + n.")
    ] = False,
    num_images: Annotated[int, typer.Option(help="Pictures per prompt.")] = 4,
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
    """Make guided pictures of prompts, with a contact sheet and a report.

    Example, with the model that comes along:

        [bold]diffusteer sample "a red star" "a blue ring" --guidance "CFG(6)"[/bold]

    Picture i of a prompt has seed + i, and is the same alone as in a batch.
    Each PNG carries its settings, as AUTOMATIC1111 text and as JSON; metadata.jsonl lists all.
    Files of the same name in --out are replaced. Several processes share the work:

        [bold]accelerate launch --num_processes 8 -m apps.cli sample --prompts prompts.txt[/bold]
    """
    logging.getLogger("diffusteer").handlers = [SayWarnings()]
    with one_line_errors(verbose):
        settings = SampleSettings(
            prompts=chosen_prompts(prompt, prompts),
            out=out,
            model=model,
            guidance=guidance,
            negative_prompt=negative_prompt,
            steps=steps,
            seed=seed,
            vary_seed=vary_seed,
            num_images=num_images,
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
            from apps.sample import sample as make  # loads torch and diffusers: not for --help

            result = make(settings, show)
        if speaks() and as_json:
            typer.echo(json.dumps(result.report, ensure_ascii=False))
        elif speaks():
            typer.echo(f"{len(result.pictures)} pictures, see {result.sheet}")


@app.command()
def inspect(
    model: Model = DEFAULT_MODEL, as_json: AsJson = False, verbose: Verbose = False
) -> None:
    """List the layers and heads of a model that rules can name, and their defaults.

    Example, for a model of your own:

        [bold]diffusteer inspect --model path/to/pipeline[/bold]
    """
    with one_line_errors(verbose, "stopped"):
        if not verbose:
            quiet()
        from apps.pipelines import load_pipeline
        from guidance import inspect as look_at

        found = look_at(load_pipeline(model, device="cpu"))
        typer.echo(json.dumps(found.to_dict()) if as_json else str(found))


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
