"""What guidance costs: time beside the pipelines' own, evaluations where it is off, memory."""

from __future__ import annotations

from collections.abc import Callable

from apps.bench import parts
from apps.bench.results import Row, provenance, write_results
from apps.bench.settings import BenchSettings
from apps.pipelines import pick_device, pick_dtype
from apps.sample import check_writable

MEASURES = {
    "overhead": parts.overhead,
    "evaluations": parts.evaluations,
    "adaptive": parts.adaptive,
    "pag": parts.pag,
    "memory": parts.memory,
}


def rounds(settings: BenchSettings) -> int:
    """How often ``bench_guidance`` calls its ``on_step``."""
    each = dict.fromkeys(MEASURES, settings.pairs + 1)
    each |= {"evaluations": len(parts.EXTRA), "memory": 2}
    return sum(each[part] for model in settings.models for part in settings.planned(model))


def bench_guidance(
    settings: BenchSettings, command: str, on_step: Callable[[str], None] = lambda what: None
) -> list[Row]:
    """Measure what the settings say, and write ``settings.out`` with ``.csv`` and ``.json``.

    Args:
        settings: what to measure, and where.
        command: written into the results.
        on_step: called with the part and the model after each measurement.

    Raises:
        ValueError: no such device or dtype, no place to write to, or a measurement that failed.
    """
    check_writable(settings.out.parent)
    device = pick_device(settings.device)
    about = provenance(command, device, pick_dtype(settings.dtype, device))
    rows: list[Row] = []
    for model in settings.models:
        for part in settings.planned(model):
            what = f"{part} {model}"
            rows += MEASURES[part](model, settings, lambda what=what: on_step(what))  # type: ignore[misc]
    write_results(settings.out, about | {"compiled": settings.compiled}, rows)
    return rows
