"""Small rules that tests of the engine need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from guidance import COND, UNCOND, Direction, Step
from guidance.core.prediction import Branch


class Interrupt(Direction):
    """Stops the second step as Ctrl-C would."""

    def guide(self, step: Step) -> torch.Tensor:
        if step.index == 1:
            raise KeyboardInterrupt
        return step.evaluate(COND)


class Spy(Direction):
    """Keeps what it sees, and counts in the memory of the run."""

    steps: list[Step]

    def guide(self, step: Step) -> torch.Tensor:
        step.memory["calls"] = step.memory.get("calls", 0) + 1
        step.notes["calls"] = step.memory["calls"]
        self.steps.append(step)
        return step.evaluate(COND)


def spy() -> Spy:
    rule = Spy()
    object.__setattr__(rule, "steps", [])
    return rule


@dataclass(frozen=True, repr=False)
class Late(Direction):
    """Asks for the uncond branch without announcing it."""

    def guide(self, step: Step) -> torch.Tensor:
        cond = step.evaluate(COND)
        return cond + 4.0 * (cond - step.evaluate(UNCOND))


class Greedy(Direction):
    """Asks for a branch that nobody knows."""

    def needs(self, step: Step) -> Iterable[Branch]:
        return ("third",)

    def guide(self, step: Step) -> torch.Tensor:
        return step.evaluate("third")
