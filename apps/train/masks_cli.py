"""``diffusteer train masks``: where in photos the subject is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from apps.errors import one_line_errors
from apps.options import AsJson, Device, Verbose
from apps.quiet import quiet


def masks(
    train_data_dir: Annotated[
        Path, typer.Option("--train_data_dir", metavar="DIR", help="Folder of the photos.")
    ],
    super_category: Annotated[
        str,
        typer.Option(
            "--super_category", metavar="WORD", help="What is seen on all of them, such as cat."
        ),
    ],
    model: Annotated[
        str, typer.Option(help="CLIPSeg: folder or hub id.")
    ] = "CIDAS/clipseg-rd64-refined",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make masks anew that are there already.")
    ] = False,
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Write a soft mask beside each photo, white where a word is seen, for --masked_loss.

    Example:

        [bold]diffusteer train masks --train_data_dir photos --super_category cat[/bold]

    The numbers say how sure the model is of the whitest place: where they are low, paint the mask
    by hand. Masks that are there stay.
    """
    with one_line_errors(verbose, "stopped; finished masks are kept"):
        if not super_category.strip():
            raise ValueError("super_category must be a word such as 'cat', found none")
        if not verbose:
            quiet()
        from apps.pipelines import pick_device
        from apps.train.masks import Segmenter, photos_to_mask, write_masks

        where = pick_device(device)
        items = photos_to_mask(train_data_dir, overwrite)
        made = write_masks(items, Segmenter(model, super_category, where)) if items else {}
    if as_json:
        peaks = {str(path): peak for path, peak in made.items()}
        typer.echo(json.dumps({"peaks": peaks}, ensure_ascii=False))
    elif made:
        for path, peak in made.items():
            typer.echo(f"{path}: {peak:.2f}")
    else:
        typer.echo("every photo has a mask already; --overwrite makes them anew")
