"""A benchmark: its parts, one model after the other, and its files."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from apps.bench.results import Row, provenance, write_results
from apps.bench.settings import Settings
from apps.pipelines import pick_device, pick_dtype
from apps.sample import check_writable

Measures = Mapping[str, Callable[[str, Any, Callable[[], None]], Iterable[Row]]]
"""By the name of a part: makes its rows from a model, the settings, and a call for each round."""


def bench(
    settings: Settings,
    measures: Measures,
    command: str,
    on_step: Callable[[str], None],
    **about: Any,
) -> list[Row]:
    """Measure what the settings say, and write ``settings.out`` with ``.csv`` and ``.json``.

    Args:
        settings: what to measure, and where.
        measures: all parts that can be.
        command: written into the results.
        on_step: called with the part and the model after each measurement.
        about: to write into the results, too.

    Raises:
        ValueError: no such device or dtype, no place to write to, or a measurement that failed.
    """
    check_writable(settings.out.parent)
    device = pick_device(settings.device)
    origin = provenance(command, device, pick_dtype(settings.dtype, device))
    rows: list[Row] = []
    for model in settings.models:
        for part in settings.planned(model):
            gc.collect()  # the last part's pipeline, of which two may not fit into memory
            what = f"{part} {model}"
            rows += measures[part](model, settings, lambda what=what: on_step(what))  # type: ignore[misc]
    write_results(settings.out, origin | about, rows)
    return rows
