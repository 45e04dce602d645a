"""``diffusteer train covariance``: the metric in which Perfusion edits concepts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from apps.errors import one_line_errors
from apps.options import AsJson, Device, Model, Verbose
from apps.quiet import quiet
from apps.settings import DEFAULT_MODEL, read_prompts


def covariance(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Safetensors file to write.")],
    captions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Captions: one per line, or the text of each row of a .jsonl. Many are better. "
            "Default: 2,400 of everyday things.",
        ),
    ] = None,
    model: Model = DEFAULT_MODEL,
    positions: Annotated[
        str, typer.Option(help="Tokens that count: all, or nonpad for those before the padding.")
    ] = "all",
    shrinkage: Annotated[
        float | None,
        typer.Option(help="Share of the mean variance added to all. Default: by the captions."),
    ] = None,
    clip_skip: Annotated[
        int | None, typer.Option(help="Layers of CLIP to leave out, as pictures are drawn with.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Captions encoded at once.")] = 32,
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Estimate the second moment of text encodings, for concepts that go into one picture.

    Example, for the model that comes along, with captions of its world:

        [bold]diffusteer train covariance --captions captions.txt --out c.safetensors[/bold]

    Concepts that were trained with one such file can be combined:

        [bold]diffusteer train perfusion --covariance c.safetensors ...[/bold]
    """
    with one_line_errors(verbose, "stopped; nothing was written"):
        if out.suffix != ".safetensors":
            raise ValueError(f"out must be a .safetensors file to write, found {str(out)!r}")
        texts = None if captions is None else read_prompts(captions)
        if not verbose:
            quiet()
        from apps.pipelines import load_pipeline
        from apps.sample import check_writable
        from personalize import estimate_covariance

        check_writable(out.parent)
        found = estimate_covariance(
            load_pipeline(model, device=device, dtype="float32"),
            texts,
            positions=positions,
            shrinkage=shrinkage,
            clip_skip=clip_skip,
            batch_size=batch_size,
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        found.save(out)
    size = len(found.matrix)
    if as_json:
        made = {
            "file": str(out),
            "size": size,
            "captions": found.captions,
            "positions": found.positions,
            "clip_skip": found.clip_skip,
            "digest": found.digest,
        }
        typer.echo(json.dumps(made, ensure_ascii=False))
    else:
        typer.echo(f"{out}: {size} x {size}, over {found.captions} captions")
