"""Small rules that tests of the engine need, and an example of every registered one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from guidance import (
    APG,
    CADS,
    CFG,
    COND,
    PAG,
    SEG,
    UNCOND,
    AdaptiveGuidance,
    AutoGuidance,
    CFGPlusPlus,
    CFGZeroStar,
    Direction,
    DynamicThreshold,
    PerpNeg,
    Rescale,
    Rule,
    SkipLayers,
    SoftPAG,
    Step,
)
from guidance.core.prediction import Branch
from tests import tiny


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


@dataclass(frozen=True)
class Example:
    """A registered rule at work, and how to switch it off.

    Attributes:
        rule: settings with an effect.
        neutral: settings that leave the conditional prediction; None where there are none.
        families: the families of ``tests.tiny`` that it suits.
    """

    rule: Rule
    neutral: Rule | None
    families: tuple[str, ...] = tuple(tiny.FAMILIES)

    def __str__(self) -> str:
        return repr(self.rule)


TEXT = ("sd", "sdxl", "sd3")

EXAMPLES = (
    Example(CFG(4.0), CFG(1.0)),
    Example(CFG(4.0) + Rescale(0.7), Rescale(0.0)),
    Example(APG(4.0, norm_threshold=5.0), APG(1.0)),
    Example(CFGZeroStar(4.0, zero_steps=0), CFGZeroStar(1.0)),
    Example(CFGZeroStar(4.0), CFGZeroStar(1.0), ("sd3",)),
    Example(CFGPlusPlus(0.6), None),
    Example(CFG(4.0) + DynamicThreshold(0.9, floor=0.5), DynamicThreshold(floor=1e6)),
    Example(PerpNeg(("grey",), 2.0, 4.0), PerpNeg(("grey",), 0, 1.0), TEXT),
    Example(PerpNeg((7,), 2.0, 4.0), PerpNeg((7,), 0, 1.0), ("dit",)),
    Example(SoftPAG(3.0, strength=0.5), SoftPAG(0.0)),
    Example(CFG(4.0) + PAG(3.0), PAG(0.0)),
    Example(SEG(3.0), SEG(0.0)),
    Example(SkipLayers(2.8), SkipLayers(0.0)),
    Example(AutoGuidance(2.0, ("mid",)), AutoGuidance(1.0, ("mid",)), ("sd", "sdxl")),
    Example(
        CFG(4.0) + AutoGuidance(2.0, ("transformer_blocks.1",)),
        AutoGuidance(1.0, ("transformer_blocks.1",)),
        ("sd3", "dit"),
    ),
    Example(AdaptiveGuidance(4.0, -1.0, min_steps=2), AdaptiveGuidance(1.0)),
    Example(CFG(4.0) + CADS(), CADS(1.0, 1.0), TEXT),
)
