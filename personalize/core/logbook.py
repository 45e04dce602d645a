"""What a run tells of itself: ``log.jsonl``, trackers, and its progress."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from personalize.core.checkpoint import write_text

LOG = "log.jsonl"


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        step, steps: optimizer steps done, and in all.
        loss: of the last step.
        rate: its learning rate.
        seconds_left: at the speed so far.
        memory: bytes in use; on CUDA the most that was.
        phase: ``encoding``, ``training``, ``validating`` or ``saving``.
    """

    step: int
    steps: int
    loss: float
    rate: float
    seconds_left: float
    memory: int
    phase: str


class Speed:
    """Tells how long a run will last."""

    def __init__(self, step: int, steps: int) -> None:
        self._start, self._steps = step, steps
        self._since = time.monotonic()

    def seconds_left(self, step: int) -> float:
        """Seconds to the end after ``step`` steps; nan before the first."""
        done = step - self._start
        spent = time.monotonic() - self._since
        return spent / done * (self._steps - step) if done else float("nan")


def memory(device: torch.device) -> int:
    """Bytes: the most that CUDA has allocated, or what the process has now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def append(folder: Path, line: Mapping[str, Any]) -> None:
    """Add a line to the log of a run."""
    with (folder / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(dict(line)) + "\n")


def rewind(folder: Path, step: int) -> None:
    """Take back what was logged after ``step`` steps, which will be done again."""
    path = folder / LOG
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if _step_of(line) <= step]
    if kept != lines:
        write_text(path, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # cut off when a process died
        return float("inf")
