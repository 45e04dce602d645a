"""A look at every step of a run from inside, and a way out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

from torch import Tensor

from guidance import Correction, Rule, Step

See = Callable[[Step, Tensor], None]
"""Called at every denoiser call with its guided prediction, in the model's own space."""


class Stopped(Exception):
    """Somebody pressed stop."""


@dataclass(frozen=True, repr=False)
class _Watch(Correction):
    stop: Event
    see: See

    def correct(self, step: Step, guided: Tensor) -> Tensor:
        if self.stop.is_set():
            raise Stopped
        self.see(step, guided)
        return guided


def watched(rule: Rule | None, stop: Event, see: See = lambda step, guided: None) -> Rule:
    """The rule, with a look at what it gives; raises ``Stopped`` at the first call after a stop."""
    watch = _Watch(stop, see)
    return watch if rule is None else rule + watch
