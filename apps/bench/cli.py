"""``diffusteer bench``: what the toolkit costs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from apps.bench.settings import DEFAULT, MODELS, PARTS, BenchSettings
from apps.errors import one_line_errors

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
    pairs: Annotated[int, typer.Option(help="Measurements of each ratio of times.")] = 15,
    steps: Annotated[
        int | None,
        typer.Option(help="Of a sample; default: 25, for random weights 10 or on a CPU 1."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda, cuda:1 ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the denoiser beforehand, for both sides.")
    ] = False,
    out: Annotated[
        Path, typer.Option(metavar="STEM", help="Results go to STEM.csv and STEM.json.")
    ] = Path("assets/results/bench-guidance"),
    verbose: Annotated[bool, typer.Option("--verbose", help="Show tracebacks.")] = False,
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
    with one_line_errors(verbose, "stopped; nothing is written"):
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
        from tqdm import tqdm

        from apps.bench.guidance import bench_guidance, rounds
        from apps.bench.results import markdown_table
        from apps.quiet import quiet

        if not verbose:
            quiet()
        with tqdm(total=rounds(settings), unit="round", disable=None) as bar:

            def show(what: str) -> None:
                bar.set_description(what, refresh=False)
                bar.update()

            command = shlex.join(["diffusteer", *sys.argv[1:]])
            rows = bench_guidance(settings, command, show)
        typer.echo(markdown_table(rows))
        typer.echo(f"written to {out}.csv and {out}.json")
