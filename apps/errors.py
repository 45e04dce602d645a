"""Errors of the command line: one line on stderr, exit 2 for the user's, 1 for the machine's."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from typer import Exit
from typer.core import TyperGroup
from typer.exceptions import TyperException

from apps.config import add_config


def speaks() -> bool:
    """Whether this process talks to the user: of those of ``accelerate launch`` only the first."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """One line on stderr."""
    if speaks():
        print("diffusteer:", " ".join(text.split()), file=sys.stderr)


class SayWarnings(logging.Handler):
    """Shows what is logged as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower()}: {record.getMessage()}")


class OneLineErrors(TyperGroup):
    """Group of commands with ``--config``, which reports a wrong command line in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        add_config(self)

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            code = super().main(*args, **options | {"standalone_mode": False})
        except TyperException as error:
            context = getattr(error, "ctx", None)
            path = context.command_path if context else "diffusteer"
            say(f"error: {error.format_message().rstrip('.')}; see {path} --help")
            code = error.exit_code
        sys.exit(code)


@contextmanager
def one_line_errors(
    verbose: bool, stopped: str = "stopped; finished pictures are kept"
) -> Iterator[None]:
    """Turn exceptions that the user can do something about into a line and an exit code.

    Args:
        verbose: print the traceback too.
        stopped: what to say when the user interrupts.
    """
    try:
        yield
    except KeyboardInterrupt:
        say(stopped)
        raise Exit(130) from None
    except ValueError as error:
        _leave(error, str(error), 2, verbose)
    except OSError as error:
        _leave(error, str(error), 1, verbose)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _leave(error, "out of memory; try --batch-size 1 or --dtype float16", 1, verbose)


def _leave(error: Exception, text: str, code: int, verbose: bool) -> NoReturn:
    if verbose:
        traceback.print_exception(error)
    say(f"error: {text}")
    raise Exit(code)
