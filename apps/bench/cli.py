"""``diffusteer bench``: what the toolkit costs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from apps.bench.settings import (
    DEFAULT,
    MODELS,
    PARTS,
    TRAINED_MODELS,
    TRAINING_PARTS,
    BenchSettings,
    PersonalizeSettings,
)
from apps.errors import one_line_errors
from apps.options import AsJson, Device, Dtype, Verbose

STOPPED = "stopped; nothing is written"
Pairs = Annotated[int, typer.Option(help="Measurements of each ratio of times.")]
Out = Annotated[Path, typer.Option(metavar="STEM", help="Results go to STEM.csv and STEM.json.")]

app = typer.Typer(help="Measure what the toolkit costs.")


@app.callback()
def bench() -> None:
    """Measure what the toolkit costs."""


@app.command()
def guidance(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One of {', '.join(MODELS)}; repeat for several. Default: "
            f"{' and '.join(DEFAULT)}. All but emblem-unet have random weights."
        ),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {', '.join(PARTS)}; repeat for several. Default: all."),
    ] = None,
    pairs: Pairs = 15,
    steps: Annotated[
        int | None,
        typer.Option(help="Of a sample; default: 25, for random weights 10 or on a CPU 1."),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the denoiser beforehand, for both sides.")
    ] = False,
    out: Out = Path("assets/results/bench-guidance"),
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Measure guidance beside the pipelines' own, side by side in one run.

    Example, on a GPU:

        [bold]diffusteer bench guidance --model sdxl --device cuda --out sdxl[/bold]

    overhead: CFG through guide against the pipeline's own.
    evaluations: what rules cost that are off.
    adaptive: AdaptiveGuidance against CFG.
    pag: CFG + SoftPAG against diffusers' PAG pipeline.
    memory: branches one by one against all in one batch.

    Times are medians of pairs in alternating order. Leave the machine alone meanwhile.
    """
    with one_line_errors(verbose, STOPPED):
        settings = BenchSettings(
            models=tuple(model or DEFAULT),
            parts=tuple(part or PARTS),
            pairs=pairs,
            steps=steps,
            device=device,
            dtype=dtype,
            compiled=compiled,
            out=out,
        )
        from apps.bench.guidance import bench_guidance, rounds

        _show(settings, bench_guidance, rounds(settings), as_json, verbose)


@app.command()
def personalize(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One of {', '.join(TRAINED_MODELS)}; repeat for several. Default: "
            f"{' and '.join(DEFAULT)}. All but emblem-unet have random weights."
        ),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {', '.join(TRAINING_PARTS)}; repeat for several. Default: all."),
    ] = None,
    pairs: Pairs = 15,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Of a training whose memory is measured, and of a sample; default: 10, on a CPU "
            "3 and 1, or 25 for samples of emblem-unet."
        ),
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(help="Side of pictures in pixels; default: the model's, on a CPU up to 256."),
    ] = None,
    dtype: Dtype = "auto",
    clock: Annotated[
        str, typer.Option(help="wall, or processor for a CPU that others use, too.")
    ] = "wall",
    out: Out = Path("assets/results/bench-personalize"),
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Measure training and what it adds to drawing, side by side in one run.

    Example, on a GPU:

        [bold]diffusteer bench personalize --model sd15 --out sd15[/bold]

    memory: peak memory and time of a step, each method in a process of its own.
    throughput: textual inversion by the trainer against a plain loop that caches nothing.
    layers: drawing with a concept of Perfusion against drawing without.

    Ratios of times are medians of pairs in alternating order; leave the machine alone meanwhile,
    or count processor time, with OMP_NUM_THREADS=1. sd15 writes 4 GB to the temporary folder.
    """
    with one_line_errors(verbose, STOPPED):
        settings = PersonalizeSettings(
            models=tuple(model or DEFAULT),
            parts=tuple(part or TRAINING_PARTS),
            pairs=pairs,
            steps=steps,
            resolution=resolution,
            dtype=dtype,
            clock=clock,
            out=out,
        )
        from apps.bench.personalize import bench_personalize, rounds

        _show(settings, bench_personalize, rounds(settings), as_json, verbose)


def _show(
    settings: Any, measure: Callable[..., list[Any]], rounds: int, as_json: bool, verbose: bool
) -> None:
    """Measure behind a bar, and print what was found."""
    from tqdm import tqdm

    from apps.bench.results import markdown_table
    from apps.quiet import quiet

    if not verbose:
        quiet()
    with tqdm(total=rounds, unit="round", disable=None) as bar:

        def show(what: str) -> None:
            bar.set_description(what, refresh=False)
            bar.update()

        rows = measure(settings, shlex.join(["diffusteer", *sys.argv[1:]]), show)
    if as_json:
        typer.echo(Path(f"{settings.out}.json").read_text("utf-8").rstrip())
    else:
        typer.echo(markdown_table(rows))
        typer.echo(f"written to {settings.out}.csv and {settings.out}.json")
