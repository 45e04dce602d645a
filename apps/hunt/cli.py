"""``diffusteer hunt``: the heads whose softening serves an objective."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apps.errors import SayWarnings, one_line_errors, say, speaks
from apps.hunt.settings import HuntSettings
from apps.options import (
    AsJson,
    BatchSize,
    Device,
    Dtype,
    Height,
    Model,
    Steps,
    Verbose,
    Width,
)
from apps.quiet import quiet
from apps.settings import DEFAULT_MODEL, read_prompts

if TYPE_CHECKING:
    from guidance import HeadSet
    from guidance.hunting.progress import Progress


def hunt(
    prompts: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Prompts: one per line, or the text of each row of a .jsonl."
        ),
    ],
    objective: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="clip, clip:ID_OR_PATH, emblem:ATTRIBUTE=VALUE such as emblem:texture=striped, or "
            "validity.",
        ),
    ] = "clip",
    model: Model = DEFAULT_MODEL,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SELECTOR",
            help="Layers or heads to choose from, see diffusteer inspect; repeat for several. "
            "Default: all.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Heads to find.")] = 3,
    scale: Annotated[float, typer.Option(help="Of SoftPAG.")] = 3.0,
    strength: Annotated[float, typer.Option(help="Of SoftPAG, up to 1.")] = 1.0,
    guidance: Annotated[
        str, typer.Option(metavar="RULE", help='Rule beside it, such as "CFG(4)".')
    ] = "none",
    num_seeds: Annotated[int, typer.Option(help="Pictures of each prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the first of them; the next one has seed + 1.")] = 0,
    steps: Steps = 12,
    batch_size: BatchSize = 8,
    height: Height = None,
    width: Width = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Heads as JSON; their heat map goes beside it.")
    ] = Path("out/heads.json"),
    work: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where scores are kept; default: out/heads.work."),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Find the attention heads whose softening (SoftPAG) serves an objective best.

    Example, with the model that comes along and a file of a few prompts:

        [bold]diffusteer hunt --prompts prompts.txt --objective emblem:texture=striped[/bold]

    All heads are tried alone, then all others beside the best, and so on. The number of pictures is
    said before the first is made. Scores are kept as soon as they are known: stop with Ctrl-C, the
    same command continues. Several processes share the work:

        [bold]accelerate launch --num_processes 8 -m apps.cli hunt --prompts prompts.txt[/bold]
    """
    logging.getLogger("diffusteer").handlers = [SayWarnings()]
    with one_line_errors(verbose, "stopped; scores so far are kept, the same command continues"):
        if out.is_dir() or out.suffix == ".png":
            raise ValueError(f"out must be a JSON file to write, found {str(out)!r}")
        settings = HuntSettings(
            prompts=read_prompts(prompts),
            out=out,
            work=work or out.with_suffix(".work"),
            objective=objective,
            model=model,
            layers=tuple(layers or ("*",)),
            k=k,
            scale=scale,
            strength=strength,
            guidance=guidance,
            steps=steps,
            num_seeds=num_seeds,
            seed=seed,
            batch_size=batch_size,
            height=height,
            width=width,
            device=device,
            dtype=dtype,
        )
        if not verbose:
            quiet()
        from tqdm import tqdm

        from apps.hunt.run import run

        with tqdm(unit="picture", disable=None if speaks() else True) as bar:

            def show(now: Progress) -> None:
                if bar.total is None:
                    say(f"{now.total} pictures in all, {now.done} of them made already")
                    bar.reset(now.total)
                    bar.initial = now.done
                bar.update(now.done - bar.n)

            found = run(settings, show)
        if speaks() and as_json:
            typer.echo(json.dumps(found.to_dict(), ensure_ascii=False))
        elif speaks():
            typer.echo(f"{_table(found)}\n\nwritten to {out} and {out.with_suffix('.png')}")


def _table(found: HeadSet) -> str:
    """Score of no head, one head, two heads and so on, and the rule of those that score highest."""
    from guidance import SoftPAG

    names = ["no head", *(f"+ {layer}:{head}" for layer, head in found.heads)]
    width = max(map(len, names))
    rows = zip(names, (found.baseline, *found.scores), strict=True)
    rule = SoftPAG(found.scale, heads=found.best(), strength=found.strength)
    return "\n".join([*(f"{name:<{width}}  {score:.4f}" for name, score in rows), "", repr(rule)])
