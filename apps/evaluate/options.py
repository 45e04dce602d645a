"""Options that all evaluations share on the command line, and how they end."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apps.errors import SayWarnings, one_line_errors, speaks
from apps.evaluate.settings import EvaluateSettings, default_cache
from apps.options import AsJson, Device, Verbose
from apps.progress import progress_bar
from apps.quiet import quiet

if TYPE_CHECKING:
    from apps.evaluate.result import Result

CACHE = default_cache()

BatchSize = Annotated[int, typer.Option(help="Pictures that go through a network at once.")]
Cache = Annotated[Path, typer.Option(metavar="DIR", help="Where features are kept.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep no features.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out pictures that cannot be read.")
]


@contextmanager
def spoken(verbose: bool) -> Iterator[None]:
    """Say warnings and errors in lines of our own, and nothing of the libraries below."""
    logging.getLogger("diffusteer").handlers = [SayWarnings()]
    with one_line_errors(verbose, "stopped; features made so far are kept"):
        if not verbose:
            quiet()
        yield


def check_out(path: Path) -> None:
    """Raise ValueError unless a file can be written there."""
    from apps.sample import check_writable  # loads torch: not for --help

    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder; expected a file to write")
    check_writable(path.parent)


def evaluation(
    command: Callable[..., Callable[[EvaluateSettings], Result]],
) -> Callable[..., None]:
    """Make a command of a function that says what to evaluate: it gets the options below.

    Args:
        command: takes ``generated`` and what else it needs from the command line, and returns what
            carries the evaluation out.
    """

    def shared(
        device: Device = "auto",
        batch_size: BatchSize = 32,
        cache: Cache = CACHE,
        no_cache: NoCache = False,
        skip_bad: SkipBad = False,
        seed: Annotated[int, typer.Option(help="Of bootstrap resamples.")] = 0,
        out: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Result as JSON; default: out/PROTOCOL-FOLDER.json."),
        ] = None,
        as_json: AsJson = False,
        verbose: Verbose = False,
        **own: Any,
    ) -> None:
        with spoken(verbose):
            name = f"{command.__name__}-{own['generated'].resolve().name}.json"
            path = out or Path("out", name)
            with progress_bar() as show:
                settings = EvaluateSettings(
                    device=device,
                    batch_size=batch_size,
                    cache=None if no_cache else cache,
                    skip_bad=skip_bad,
                    seed=seed,
                    on_progress=show,
                )
                check_out(path)
                result = command(**own)(settings)
            if speaks():
                _end(result, path, as_json)

    run = functools.wraps(command)(functools.partial(shared))
    own_parameters = inspect.signature(command, eval_str=True).parameters.values()
    options = list(inspect.signature(shared, eval_str=True).parameters.values())[:-1]
    run.__signature__ = inspect.Signature([*own_parameters, *options])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*own_parameters, *options)}
    return run


def _end(found: Result, path: Path, as_json: bool) -> None:
    launched = Path(sys.argv[0]).parts[-2:] == ("evaluate", "__main__.py")
    program = ["python", "-m", "apps.evaluate"] if launched else ["diffusteer"]
    command = shlex.join([*program, *sys.argv[1:]])
    result = replace(found, provenance={"command": command, **found.provenance})
    result.write(path)
    typer.echo(json.dumps(result.to_dict()) if as_json else f"{result}\n\nwritten to {path}")
