"""One measurement of claims from start to files: cells, results, plots."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

from apps.claims.grids import draw_grid
from apps.claims.measure import Bench, versions
from apps.claims.results import machine, write_results
from apps.claims.settings import ClaimsSettings
from apps.claims.store import Store
from apps.claims.suite import Suite
from apps.claims.summary import INTERVALS, Summary
from apps.pipelines import pick_device
from apps.sample import check_writable

OnProgress = Callable[[str, int, int], None]
"""Called with the cell in work, the pictures made so far, and those to be made in all."""


class Named(Protocol):
    """What ``only`` chooses from."""

    @property
    def name(self) -> str:
        """Unique."""


AnyCell = TypeVar("AnyCell", bound=Named)


def chosen(cells: Sequence[AnyCell], only: str | None) -> list[AnyCell]:
    """The cells whose names match a pattern, all without one.

    Raises:
        ValueError: the pattern is no regular expression or matches nothing.
    """
    try:
        found = [cell for cell in cells if only is None or re.search(only, cell.name)]
    except re.error as error:
        raise ValueError(f"only must be a regular expression, found {only!r} ({error})") from error
    if not found:
        names = ", ".join(cell.name for cell in cells)
        raise ValueError(f"only={only!r} matches no cell; expected a part of one of {names}")
    return found


def measure_claims(
    suite: Suite, settings: ClaimsSettings, on_progress: OnProgress
) -> list[dict[str, Any]]:
    """Measure the cells that are not finished, write the files of all that are, return the rows.

    Args:
        suite: all that there is to measure.
        settings: which of its cells to measure, how and where.
        on_progress: see ``OnProgress``.

    Raises:
        ValueError: a setting that cannot be carried out, or a library that is not installed.
    """
    wanted = chosen(suite.cells, settings.only)
    if any(cell.baseline for cell in wanted) and find_spec("torchmetrics") is None:
        raise ValueError(
            "comparing with a baseline needs torchmetrics: pip install diffusteer[eval]"
        )
    check_writable(settings.out)
    check_writable(settings.work)
    bench = Bench(Store(settings.work), settings.images, settings.seed)
    open_cells = [cell for cell in wanted if bench.find(cell) is None]
    total = settings.images * len(open_cells)
    for number, cell in enumerate(open_cells):
        before = number * settings.images
        bench.measure(cell, partial(shown, on_progress, cell.name, before, total))
    rows = Summary(bench, suite.measures).rows(suite.cells)
    options = f"--images {settings.images} --seed {settings.seed}"
    about = {
        "command": f"diffusteer claims {suite.name} {options}",
        "seed": settings.seed,
        "images": settings.images,
        "versions": versions(),
        "machine": machine(pick_device("auto").type),
        "intervals": INTERVALS,
    }
    write_results(settings.out / f"claims-{suite.name}.json", about, suite.measures, rows)
    suite.draw(rows, settings.out)
    by_name = {cell.name: cell for cell in suite.cells}
    for file, names in suite.grids.items():
        draw_grid(bench, [by_name[name] for name in names], settings.out / file)
    return rows


def shown(on_progress: OnProgress, name: str, before: int, total: int, done: int) -> None:
    """Say that ``done`` pictures of a cell are made, after ``before`` of the cells before it."""
    on_progress(name, before + done, total)
