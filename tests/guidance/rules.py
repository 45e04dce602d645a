"""Small rules that tests of the engine need, and an example of every registered one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

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
    BoostAndSkip,
    CFGPlusPlus,
    CFGZeroStar,
    ClassifierGuidance,
    Direction,
    DynamicCFG,
    DynamicThreshold,
    GradientFreeClassifierGuidance,
    LossGuidance,
    MinorityGuidance,
    MinorityPrompt,
    PerpNeg,
    Rescale,
    Rule,
    SelfGuidedMinority,
    SkipLayers,
    SoftPAG,
    Step,
)
from guidance.core.config import Part
from guidance.core.prediction import Branch
from guidance.evaluators import Agreement, Saturation
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
class Projection(Part):
    """A classifier by fixed random directions in x0."""

    classes: tuple[str, ...] = ("fox", "owl", "hat", "map")

    def logits(self, x0: torch.Tensor, step: Step) -> torch.Tensor:
        fixed = torch.Generator().manual_seed(99)
        directions = torch.randn(len(self.classes), x0[0].numel(), generator=fixed).to(x0)
        return torch.nn.functional.normalize(x0.flatten(1)) @ directions.T


@dataclass(frozen=True)
class NoisyProjection(Part):
    """A classifier by fixed random directions in the noisy sample."""

    def __call__(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        return Projection().logits(x, step)


@dataclass(frozen=True)
class Brightness(Part):
    """An evaluator that likes 1 everywhere, and a loss that is lowest there."""

    def score(self, x0: torch.Tensor, step: Step, prompts: Any) -> torch.Tensor:
        return -brightness(x0, step, prompts)


def brightness(x0: torch.Tensor, step: Step, prompts: Any) -> torch.Tensor:
    """A loss that is lowest at 1 everywhere."""
    return (x0 - 1).square().flatten(1).sum(1)


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
JUDGES = (Saturation(0.0), Agreement())

EXAMPLES = (
    Example(CFG(4.0), CFG(1.0)),
    Example(CFG(4.0) + Rescale(0.7), Rescale(0.0)),
    Example(APG(4.0, norm_threshold=5.0), APG(1.0)),
    Example(CFGZeroStar(4.0, zero_steps=0), CFGZeroStar(1.0)),
    Example(CFGZeroStar(4.0), CFGZeroStar(1.0), ("sd3",)),
    Example(CFGPlusPlus(0.6), None),
    Example(DynamicCFG((2.0, 4.0, 8.0), JUDGES, (1.0, 2.0)), DynamicCFG((1.0,), JUDGES)),
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
    Example(
        CFG(4.0) + GradientFreeClassifierGuidance(3.0, Projection()),
        GradientFreeClassifierGuidance(0.0, Projection()),
        TEXT,
    ),
    Example(
        GradientFreeClassifierGuidance(3.0, Projection(), (1, 2, 3, 4)),
        GradientFreeClassifierGuidance(0.0, Projection(), (1, 2, 3, 4)),
        ("dit",),
    ),
    Example(
        CFG(4.0) + ClassifierGuidance(20.0, NoisyProjection(), target=1),
        ClassifierGuidance(0.0, NoisyProjection(), target=1),
    ),
    Example(LossGuidance(0.5, Brightness(), normalised=True), LossGuidance(0.0, Brightness())),
    Example(
        CFG(4.0) + MinorityGuidance(20.0, NoisyProjection()),
        MinorityGuidance(0.0, NoisyProjection()),
    ),
    Example(CFG(4.0) + SelfGuidedMinority(5.0, every=2), SelfGuidedMinority(0.0)),
    Example(AdaptiveGuidance(4.0, -1.0, min_steps=2), AdaptiveGuidance(1.0)),
    Example(CFG(4.0) + MinorityPrompt(2, until=0.3), MinorityPrompt(0), TEXT),
    Example(CFG(4.0) + BoostAndSkip(1.2, 0.1), BoostAndSkip(1.0, 0.0)),
    Example(CFG(4.0) + CADS(), CADS(1.0, 1.0), TEXT),
)
