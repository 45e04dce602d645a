"""What personalization costs: memory and time of training, and time of what it adds in drawing."""

from __future__ import annotations

from collections.abc import Callable

from apps.bench import training_memory, training_parts
from apps.bench.results import Row
from apps.bench.run import bench
from apps.bench.settings import PersonalizeSettings
from apps.pipelines import pick_device

MEASURES = {
    "memory": training_parts.memory,
    "throughput": training_parts.throughput,
    "layers": training_parts.layers,
}


def rounds(settings: PersonalizeSettings) -> int:
    """How often ``bench_personalize`` calls its ``on_step``."""
    each = dict.fromkeys(MEASURES, settings.pairs + 1)
    each["memory"] = len(training_memory.CASES)
    return sum(each[part] for model in settings.models for part in settings.planned(model))


def bench_personalize(
    settings: PersonalizeSettings, command: str, on_step: Callable[[str], None] = lambda what: None
) -> list[Row]:
    """Measure personalization, see ``bench``."""
    if settings.clock == "processor" and pick_device(settings.device).type != "cpu":
        raise ValueError("clock must be wall where a GPU computes, found processor")
    return bench(settings, MEASURES, command, on_step, clock=settings.clock)
