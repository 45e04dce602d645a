"""``diffusteer claims``: measure what the methods claim, on the shipped models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps.errors import one_line_errors
from apps.quiet import quiet

app = typer.Typer(help="Measure what the methods claim, on the shipped models.")


@app.callback()
def claims() -> None:
    """Measure what the methods claim, on the shipped models."""


@app.command()
def guidance(
    images: Annotated[int, typer.Option(help="Pictures in each cell; an even number.")] = 512,
    only: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Measure the cells whose name matches.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of prompts and noise, the same in each cell.")] = 0,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the results go: claims-guidance.*")
    ] = Path("assets/results"),
    work: Annotated[
        Path, typer.Option(metavar="DIR", help="Where finished cells are kept.")
    ] = Path("runs/claims-guidance"),
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show tracebacks and what the libraries say.")
    ] = False,
) -> None:
    """Measure guidance rules: accuracy, FID, diversity and cost, with paired intervals.

    Example, a small trial of some rules:

        [bold]diffusteer claims guidance --images 16 --only cfg --out try --work try[/bold]

    A cell is a model, a rule, prompts and a number of steps; all cells share prompts and noise.
    Each is kept as soon as it is finished: stop with Ctrl-C, the same command continues. A cell
    whose settings or model changed is measured again.
    """
    from apps.claims.settings import ClaimsSettings

    stopped = "stopped; finished cells are kept, the same command continues"
    with one_line_errors(verbose, stopped):
        settings = ClaimsSettings(images=images, seed=seed, only=only, out=out, work=work)
        if not verbose:
            quiet()
        from tqdm import tqdm

        from apps.claims.guidance import CELLS, PICTURED
        from apps.claims.results import markdown_table
        from apps.claims.run import measure_claims

        with tqdm(unit="picture", disable=None) as bar:

            def show(cell: str, done: int, total: int) -> None:
                bar.total = total
                bar.set_description(cell, refresh=False)
                bar.update(done - bar.n)

            rows = measure_claims(CELLS, settings, show, PICTURED)
        typer.echo(markdown_table(rows, ("accuracy", "fid", "diversity")))
        typer.echo(f"written to {out / 'claims-guidance.json'}")
