"""What guidance costs: time beside the pipelines' own, evaluations where it is off, memory."""

from __future__ import annotations

from collections.abc import Callable

from apps.bench import parts
from apps.bench.results import Row
from apps.bench.run import bench
from apps.bench.settings import BenchSettings

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
    """Measure guidance, see ``bench``."""
    return bench(settings, MEASURES, command, on_step, compiled=settings.compiled)
