"""``python -m apps.bench.training_memory``: memory and time of a training in a process of its own.

On a GPU it is what torch has allocated. On a CPU it is the resident memory beyond that of the
process before it has loaded the model.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from apps.bench.memory import in_own_process, peak_resident
from apps.bench.timing import CLOCKS
from apps.quiet import quiet
from personalize import DataSettings, TextualInversion, TrainSettings, ZOODiP, train
from personalize.core.logbook import Progress
from personalize.core.steps import DTYPES

TOKEN = "<new-word>"
REFERENCE = "textual inversion"
CASES: dict[str, tuple[TextualInversion | ZOODiP, dict[str, Any]]] = {
    REFERENCE: (TextualInversion(TOKEN), {}),
    f"{REFERENCE} with gradient checkpointing": (
        TextualInversion(TOKEN),
        {"gradient_checkpointing": True},
    ),
    "ZOODiP in int8": (ZOODiP(TOKEN), {}),
    "ZOODiP without quantization": (ZOODiP(TOKEN, quantize=False), {}),
}
"""By name: the method, and settings of its training."""

PRECISIONS = {dtype: name for name, dtype in DTYPES.items()}
"""Names of the trainer's ``mixed_precision``."""


@dataclass(frozen=True)
class Cost:
    """What a training takes.

    Attributes:
        step: bytes at the peak of its steps; the first, which allocates what stays, is left out.
            Of the run on a CPU without Linux.
        run: bytes at the peak of all of it, loading and encoding included.
        seconds: median of its steps.
    """

    step: int
    run: int
    seconds: float


def cost(
    case: str, base: Path, pictures: Path, side: int, precision: str, steps: int, clock: str
) -> Cost:
    """Train in another process.

    Args:
        case: one of ``CASES``.
        base: folder of the pipeline.
        pictures: folder to train on.
        side: of the squares to train on, in pixels.
        precision: the trainer's ``mixed_precision``.
        steps: how many to measure, after a first one.
        clock: of the steps, one of ``CLOCKS``.

    Raises:
        ValueError: it failed.
    """
    given = json.dumps([case, str(base), str(pictures), side, precision, steps, clock])
    made = in_own_process("apps.bench.training_memory", [given], f"memory of {case}")
    return Cost(**json.loads(made))


class _Meter:
    """Measures a run from its progress."""

    def __init__(self, clock: str) -> None:
        self._now = CLOCKS[clock]
        self._cuda = torch.cuda.is_available()
        self._before = 0 if self._cuda else psutil.Process().memory_info().rss
        self._loading, self._times = 0, list[float]()

    def __call__(self, progress: Progress) -> None:
        if progress.phase == "training":
            self._times.append(self._now())
            if len(self._times) == 1:
                self._loading = self._peak()
                self._forget_peak()

    def read(self) -> Cost:
        seconds = [end - start for start, end in itertools.pairwise(self._times)]
        step = self._peak()
        return Cost(step, max(step, self._loading), statistics.median(seconds))

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self._cuda else peak_resident() - self._before

    def _forget_peak(self) -> None:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        elif sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")


def _cost(
    case: str, base: str, pictures: str, side: int, precision: str, steps: int, clock: str
) -> Cost:
    method, changes = CASES[case]
    settings = TrainSettings(
        max_train_steps=steps + 1,
        gradient_accumulation_steps=1,
        mixed_precision=precision,  # type: ignore[arg-type]
        **changes,
    )
    meter = _Meter(clock)
    with tempfile.TemporaryDirectory() as out:
        train(base, method, pictures, out, settings, DataSettings(resolution=side), meter)
        return meter.read()


if __name__ == "__main__":
    quiet()
    print(json.dumps(asdict(_cost(*json.loads(sys.argv[1])))))
