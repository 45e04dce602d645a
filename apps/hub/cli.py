"""``diffusteer push``: what was learned, on the hub."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from apps.errors import one_line_errors
from apps.options import AsJson, Verbose
from apps.quiet import quiet


def push(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="Personalization file or its folder, heads as JSON, or folder of an evaluator.",
        ),
    ],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="On the hub.")],
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository that everyone sees.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the files and the card, and send nothing.")
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Upload what was learned to the Hugging Face hub, with a model card.

    Example, to see what would be sent:

        [bold]diffusteer push out/cat me/my-cat --dry-run[/bold]

    Log in once with [bold]hf auth login[/bold]. Repositories are private unless --public says
    otherwise; the card names the model, the settings and how to load the files.
    """
    with one_line_errors(verbose, "stopped; look at the hub for what is there"):
        if not verbose:
            quiet()
        from apps.hub.push import push as send  # loads torch: not for --help

        sent = send(path, repository, private=not public, dry_run=dry_run)
        if as_json:
            typer.echo(json.dumps(asdict(sent), ensure_ascii=False))
        elif dry_run:
            typer.echo(f"{sent.card}\nwould be sent with {', '.join(sent.files)}")
        else:
            typer.echo(f"{len(sent.files)} files, see {sent.url}")
