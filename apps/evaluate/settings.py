"""Settings of evaluations, checked as they are made; light enough to import for ``--help``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from apps.settings import check_whole

OnProgress = Callable[[int, int, str], None]
"""Called with the pictures read so far, those to read in this phase, and the phase's name.

First with 0, then after each batch; with several processes, in the first. What it raises ends the
evaluation there; features made so far are kept.
"""


def default_cache() -> Path:
    """Where features are kept: below ``XDG_CACHE_HOME`` or ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "diffusteer" / "features"


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """How an evaluation is carried out; none of this changes its numbers beyond rounding.

    Attributes:
        device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:1``; with several processes each
            takes the device that accelerate gives it.
        batch_size: pictures that go through a network at once.
        cache: folder that keeps features from run to run; None keeps none.
        skip_bad: leave out pictures that cannot be read, instead of stopping.
        seed: of everything drawn at random: bootstrap resamples, subsets.
        on_progress: see ``OnProgress``.

    Raises:
        TypeError, ValueError: a setting is of the wrong type or out of its range.
    """

    device: str = "auto"
    batch_size: int = 32
    cache: Path | None = field(default_factory=default_cache)
    skip_bad: bool = False
    seed: int = 0
    on_progress: OnProgress | None = None

    def __post_init__(self) -> None:
        check_whole("batch_size", self.batch_size, 1)
        check_whole("seed", self.seed, 0, 2**63 - 1)
