"""The progress bar of programs that draw: on stderr, where a person looks at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from apps.errors import speaks


@contextmanager
def progress_bar() -> Iterator[Callable[[float, int], None]]:
    """Show how many pictures are done; gives the function to call with this and with their total.

    It moves in terminals only, and of several processes in the first.
    """
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} pictures"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (console.is_terminal and speaks()),
    ) as bar:
        task = bar.add_task("loading", total=0)
        yield lambda done, total: bar.update(
            task, completed=done, total=total, description="drawing"
        )
