"""``diffusteer claims``: measure what the methods claim, on the shipped models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apps.errors import one_line_errors
from apps.options import AsJson, Verbose
from apps.quiet import quiet

if TYPE_CHECKING:
    from apps.claims.settings import ClaimsSettings

app = typer.Typer(help="Measure what the methods claim, on the shipped models.")

Images = Annotated[int, typer.Option(help="Pictures in each cell; an even number.")]
Only = Annotated[
    str | None, typer.Option(metavar="REGEX", help="Measure the cells whose name matches.")
]
Seed = Annotated[int, typer.Option(help="Of prompts and noise, the same in each cell.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Where the results go: claims-SUBCOMMAND.*")]
Work = Annotated[Path, typer.Option(metavar="DIR", help="Where finished cells are kept.")]

RESULTS, CELLS = Path("assets/results"), Path("runs")


@app.callback()
def claims() -> None:
    """Measure what the methods claim, on the shipped models."""


@app.command()
def guidance(
    images: Images = 512,
    only: Only = None,
    seed: Seed = 0,
    out: Out = RESULTS,
    work: Work = CELLS / "claims-guidance",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Measure guidance rules: accuracy, FID, diversity and cost, with paired intervals.

    Example, a small trial of some rules:

        [bold]diffusteer claims guidance --images 16 --only cfg --out try --work try[/bold]

    A cell is a model, a rule, prompts and a number of steps; all cells share prompts and noise.
    Each is kept as soon as it is finished: stop with Ctrl-C, the same command continues. A cell
    whose settings or model changed is measured again.
    """
    from apps.claims.settings import ClaimsSettings

    with one_line_errors(verbose, _STOPPED):
        settings = ClaimsSettings(images=images, seed=seed, only=only, out=out, work=work)
        _measure("guidance", settings, as_json, verbose)


@app.command()
def feedback(
    images: Images = 512,
    only: Only = None,
    seed: Seed = 0,
    out: Out = RESULTS,
    work: Work = CELLS / "claims-feedback",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Measure rules that listen to networks: searched heads, dynamic scales, classes, rarity.

    Example, the search for heads of one objective, then pictures of other prompts with them:

        [bold]diffusteer claims feedback --only striped --images 64 --out try --work try[/bold]

    Cells are kept like those of [bold]claims guidance[/bold], and so is a search for heads in one.
    """
    from apps.claims.settings import ClaimsSettings

    with one_line_errors(verbose, _STOPPED):
        settings = ClaimsSettings(images=images, seed=seed, only=only, out=out, work=work)
        _measure("feedback", settings, as_json, verbose)


@app.command()
def personalize(
    images: Annotated[int, typer.Option(help="Pictures in each cell; a multiple of 6.")] = 384,
    only: Only = None,
    seed: Seed = 0,
    out: Out = RESULTS,
    work: Work = CELLS / "claims-personalize",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Measure what methods learn from five photos each of six concepts the model never saw.

    Example, a small trial of one method:

        [bold]diffusteer claims personalize --only ti-alone --images 48 --out try --work try[/bold]

    Each method is trained on each concept in a process of its own, some minutes in all; what was
    learned is kept beside the finished cells.
    """
    from apps.claims.settings import PersonalizeSettings

    with one_line_errors(verbose, _STOPPED):
        settings = PersonalizeSettings(images=images, seed=seed, only=only, out=out, work=work)
        if not verbose:
            quiet()
        from apps.claims.concepts import MEASURES
        from apps.claims.personalize import measure_personalize
        from apps.claims.results import bounded_table

        with _pictures() as show:
            rows = measure_personalize(settings, show)
        firsts = [(row["cell"], row["learned"]) for row in rows]
        table = bounded_table(rows, list(MEASURES), ("cell", "learned"), firsts)
        _say(settings.out / "claims-personalize.json", table, as_json)


_STOPPED = "stopped; finished cells are kept, the same command continues"


def _measure(name: str, settings: ClaimsSettings, as_json: bool, verbose: bool) -> None:
    """Measure a suite by its name, and say what was found."""
    if not verbose:
        quiet()
    from apps.claims.results import markdown_table
    from apps.claims.run import measure_claims

    suite = import_module(f"apps.claims.{name}").SUITE
    with _pictures() as show:
        rows = measure_claims(suite, settings, show)
    table = markdown_table(rows, ("accuracy", "fid", "diversity"))
    _say(settings.out / f"claims-{name}.json", table, as_json)


def _say(file: Path, table: str, as_json: bool) -> None:
    """What was found: the file as it is, or a table for people."""
    typer.echo(file.read_text("utf-8").rstrip() if as_json else f"{table}\nwritten to {file}")


@contextmanager
def _pictures() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar of pictures, moved by a cell's name, the pictures made, and those in all."""
    from tqdm import tqdm

    with tqdm(unit="picture", disable=None) as bar:

        def show(cell: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_description(cell, refresh=False)
            bar.update(done - bar.n)

        yield show
