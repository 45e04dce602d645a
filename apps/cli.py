"""The ``diffusteer`` command."""

from __future__ import annotations

import json
import logging
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from apps.bench.cli import app as bench
from apps.claims.cli import app as claims
from apps.errors import OneLineErrors, SayWarnings, one_line_errors
from apps.evaluate.cli import app as evaluate
from apps.hunt.cli import hunt
from apps.quiet import quiet
from apps.schedulers import DIFFUSION
from apps.settings import DEFAULT_GUIDANCE, DEFAULT_MODEL, SampleSettings, read_prompts
from apps.train.cli import app as train

app = typer.Typer(cls=OneLineErrors, pretty_exceptions_enable=False, rich_markup_mode="rich")
app.add_typer(bench, name="bench")
app.add_typer(claims, name="claims")
app.add_typer(evaluate, name="evaluate")
app.add_typer(train, name="train")
app.command()(hunt)


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
    prompt: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help="What to draw; one row per prompt."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Prompts to draw instead: one per line, or the text of each row of a .jsonl.",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Shipped model, folder of a diffusers pipeline, or hub id.")
    ] = DEFAULT_MODEL,
    guidance: Annotated[
        str, typer.Option(metavar="RULE", help='Such as "CFG(6) + Rescale(0.7)", or none.')
    ] = DEFAULT_GUIDANCE,
    negative_prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the pictures should not show.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 25,
    seed: Annotated[
        int, typer.Option(help="Of the first picture of a prompt; the next one has seed + 1.")
    ] = 0,
    vary_seed: Annotated[
        bool, typer.Option("--vary-seed", help="Let picture n of all prompts have seed + n.")
    ] = False,
    num_images: Annotated[int, typer.Option(help="Pictures per prompt.")] = 4,
    batch_size: Annotated[int, typer.Option(help="Pictures made at once.")] = 4,
    height: Annotated[int | None, typer.Option(help="In pixels; default: the model's own.")] = None,
    width: Annotated[int | None, typer.Option(help="In pixels; default: the model's own.")] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"One of {', '.join(DIFFUSION)}; default: the model's."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to write; default: a new folder out/NNN."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda, cuda:1 ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    metadata: Annotated[
        bool,
        typer.Option(
            "--metadata/--no-metadata",
            help="Write the settings into the pictures, and the prompts into metadata.jsonl.",
        ),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show tracebacks and what the libraries say.")
    ] = False,
) -> None:
    """Make guided pictures of prompts, with a contact sheet and a report.

    Example, with the model that comes along:

        [bold]diffusteer sample "a red star" "a blue ring" --guidance "CFG(6)"[/bold]

    Picture i of a prompt has seed + i, and is the same alone as in a batch.
    Each PNG carries its settings, as AUTOMATIC1111 text and as JSON; metadata.jsonl lists all.
    Files of the same name in --out are replaced.
    """
    logging.getLogger("diffusteer").handlers = [SayWarnings()]
    with one_line_errors(verbose):
        settings = SampleSettings(
            prompts=_prompts(prompt, prompts),
            out=_new_folder() if out is None else out,
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
            device=device,
            dtype=dtype,
            metadata=metadata,
        )
        with _progress_bar() as bar:
            task = bar.add_task("loading", total=len(settings.prompts) * num_images)
            if not verbose:
                quiet()
            from apps.sample import sample as make  # loads torch and diffusers: not for --help

            result = make(
                settings, lambda done: bar.update(task, completed=done, description="drawing")
            )
        if as_json:
            print(json.dumps(result.report, ensure_ascii=False))
        else:
            print(f"{len(result.pictures)} pictures in {settings.out}, see {result.sheet}")


@app.command()
def inspect(
    model: Annotated[
        str, typer.Option(help="Shipped model, folder of a diffusers pipeline, or hub id.")
    ] = DEFAULT_MODEL,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show tracebacks and what the libraries say.")
    ] = False,
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
        print(json.dumps(found.to_dict()) if as_json else found)


def _prompts(given: list[str] | None, file: Path | None) -> tuple[str, ...]:
    if bool(given) == (file is not None):
        found = "both" if given else "neither"
        raise ValueError(f"expected either PROMPT or --prompts FILE, found {found}")
    return read_prompts(file) if file else tuple(given or ())


def _new_folder() -> Path:
    return next(path for path in (Path("out", f"{n:03}") for n in count(1)) if not path.exists())


def _progress_bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} pictures"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
