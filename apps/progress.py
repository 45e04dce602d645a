"""The progress bar of programs that draw or read pictures: on stderr, where a person looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from apps.errors import speaks


class Show(Protocol):
    """Shows how many pictures of how many are done, and in what phase of the program."""

    def __call__(self, done: float, total: int, phase: str = "drawing", /) -> None: ...


@contextmanager
def progress_bar() -> Iterator[Show]:
    """Show how many pictures are done; gives the function to call with this and with their total.

    It moves in terminals only, and of several processes in the first.
    """
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
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

        def show(done: float, total: int, phase: str = "drawing", /) -> None:
            if phase != bar.tasks[task].description:
                bar.reset(task, total=total, description=phase)
            bar.update(task, completed=done, total=total)

        yield show
