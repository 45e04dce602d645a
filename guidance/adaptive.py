"""Adaptive Guidance: guide an image until its two predictions agree.

"Adaptive Guidance: Training-free Acceleration of Conditional Diffusion Models", Angela Castillo,
Jonas Kohler, Juan C. Perez, Juan Pablo Perez, Albert Pumarola, Bernard Ghanem, Pablo Arbelaez and
Ali Thabet, 2023, arXiv 2312.12487.

    gamma = <cond, uncond> / (|cond| |uncond|)         per sample
    guided by the rule inside until gamma >= threshold; from the next step on, cond alone

Once an image has converged its unconditional prediction is never made again, so that T steps of
which s are guided cost T + s evaluations instead of 2 T.

The cosine depends on the space it is read in; the update does not. Read as the paper writes it, on
what the model predicts, two noise predictions are almost parallel from the start, because both are
mostly the noise of the sample. Between predictions of x0 the cosine starts low and ends at 1 in
every model, which is the default here; 0.991 of the paper's models then becomes about 0.999.

Deviations: the space. The step at which an image converges is still guided, as in the paper's text;
its formula gives cond, for ``crossing="conditional"``. Two predictions of which one is zero agree.
Every prediction but cond is dropped with the unconditional one, for rules with more branches.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from guidance.cfg import CFG
from guidance.core.chain import Chain
from guidance.core.family import Family
from guidance.core.kinds import Direction
from guidance.core.prediction import COND, UNCOND, Branch, Step, limited, prompt, wide
from guidance.core.rule import Rule, Start, Token
from guidance.core.schedule import Scale, check_number
from guidance.core.token import PromptToken

SPACES = ("x0", "raw", "eps", "velocity")
CROSSINGS = ("guided", "conditional")

_STATE = "AdaptiveGuidance: images"


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between two predictions, per sample over all other axes.

    Args:
        a, b: predictions ``(B, ...)`` in the same space.

    Returns:
        ``(B,)`` from -1 to 1 in float32 at least; 1 where either is zero, nan where one is.

    Source: the definition of gamma at the top of this file.
    """
    a, b = wide(a).flatten(1), wide(b).flatten(1)
    # Sums add in pairs, norms one by one: they would round away what thresholds tell apart.
    sizes = a.square().sum(1).sqrt(), b.square().sum(1).sqrt()
    cosines = ((a * b).sum(1) / sizes[0] / sizes[1]).clamp(-1, 1)
    return torch.where(torch.minimum(*sizes) < 1e-12, 1.0, cosines)


@dataclass(frozen=True)
class _Images:
    """Which images are guided, from one call to the next.

    Attributes:
        now, after: at this step, and from the next step on.
        timestep: of the last call.
        repeated: whether the last call repeated the timestep of the one before it.
    """

    now: tuple[bool, ...]
    after: tuple[bool, ...]
    timestep: float
    repeated: bool

    def continued_by(self, step: Step) -> bool:
        """Whether a call is the second of a solver's step: Heun repeats a time for the first."""
        return self.repeated and step.timestep != self.timestep


@dataclass(frozen=True, repr=False)
class AdaptiveGuidance(Direction):
    """A rule that stops, image by image, once cond and uncond agree; then cond is the prediction.

    The report notes the cosines and how many images are guided at each call. Heun's two calls per
    step are told by their repeated timestep, from its second step on: images converge only between
    steps. With other second order solvers an image may converge within a step.

    Args:
        rule_or_scale: a rule or chain that uses the unconditional branch, such as ``PerpNeg(...)``;
            a number or schedule means CFG with it, None CFG at the pipeline's guidance_scale.
        threshold: cosine from -1 up at which an image converges; from 1 up nothing is measured and
            the rule inside acts alone. It means something only together with the space.
        space: where the cosine is read: ``"x0"``, ``"eps"``, ``"velocity"``, or ``"raw"`` for what
            the model predicts, as in the paper.
        min_steps: calls that are guided in any case, from 1.
        crossing: ``"guided"`` or ``"conditional"`` prediction at the step of convergence.

    Raises:
        TypeError, ValueError: a setting is out of range, the rule does not use the unconditional
            branch or is itself adaptive.

    Warns:
        UserWarning: an image converges at the very first call, which says that the threshold does
            not suit the space.
    """

    owns_uncond: ClassVar[bool] = True

    rule_or_scale: Rule | Scale | None = None
    threshold: float = 0.999
    space: str = "x0"
    min_steps: int = 1
    crossing: str = "guided"

    def __post_init__(self) -> None:
        rule = (
            self.rule_or_scale if isinstance(self.rule_or_scale, Rule) else CFG(self.rule_or_scale)
        )
        parts = rule.rules if isinstance(rule, Chain) else (rule,)
        if not rule.owns_uncond or any(isinstance(part, AdaptiveGuidance) for part in parts):
            raise ValueError(
                "AdaptiveGuidance: rule_or_scale must be a number or a rule that uses the "
                f"unconditional branch, such as CFG(6.0), found {rule!r:.80}"
            )
        object.__setattr__(self, "rule_or_scale", rule)
        threshold = check_number("AdaptiveGuidance", "threshold", self.threshold, -1)
        object.__setattr__(self, "threshold", threshold)
        for name, choices in (("space", SPACES), ("crossing", CROSSINGS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"AdaptiveGuidance: {name} must be one of {', '.join(choices)}, "
                    f"found {getattr(self, name)!r}"
                )
        steps = check_number("AdaptiveGuidance", "min_steps", self.min_steps, 1)
        if not steps.is_integer():
            raise ValueError(f"AdaptiveGuidance: min_steps must be whole, found {steps:g}")
        object.__setattr__(self, "min_steps", int(steps))

    @property
    def rule(self) -> Rule:
        """The rule inside."""
        return self.rule_or_scale  # type: ignore[return-value]

    def prompts(self) -> tuple[prompt, ...]:
        return self.rule.prompts()

    def check(self, model: nn.Module, family: Family) -> tuple[str, ...]:
        return self.rule.check(model, family)

    @property
    def conditions(self) -> bool:
        return self.rule.conditions

    def condition(self, step: Step, name: str, value: Tensor) -> Tensor:
        return self.rule.condition(step, name, value)

    @property
    def token(self) -> Token | None:
        return self.rule.token

    def rewrite(self, step: Step, token: PromptToken) -> Mapping[str, Tensor]:
        return self.rule.rewrite(step, token) if self.rule.active(step) else {}

    @property
    def starts(self) -> bool:
        return self.rule.starts

    def start(self, times: Sequence[float]) -> Start:
        return self.rule.start(times)

    def differentiates(self, step: Step) -> bool:
        return self.rule.active(step) and self.rule.differentiates(step)

    def needs(self, step: Step) -> Iterable[Branch]:
        live = self._live(step)
        branches = list(self.rule.needs(step)) if self.rule.active(step) and any(live) else []
        return branches if all(live) else [limited(branch, live) for branch in branches]

    def guide(self, step: Step) -> Tensor:
        if self.threshold >= 1:
            return self.rule.predict(step)
        cond, live = step.evaluate(COND), self._live(step)
        step.notes["guided_images"] = sum(live)
        if not any(live):
            return cond
        view = step if all(live) else step.only(live)
        guided, after = self.rule.predict(view), self._measured(view, live)
        last = step.memory.get(_STATE)
        repeated = last is not None and last.timestep == step.timestep
        step.memory[_STATE] = _Images(live, after, step.timestep, repeated)
        kept = live if self.crossing == "guided" else after
        mask = torch.tensor(kept, device=cond.device).view(-1, *[1] * (cond.ndim - 1))
        return torch.where(mask, guided, cond)

    def _live(self, step: Step) -> tuple[bool, ...]:
        """Images that have not converged before this step."""
        state: _Images | None = step.memory.get(_STATE)
        if state is None:
            return (True,) * len(step.x)
        return state.now if state.continued_by(step) else state.after

    def _measured(self, step: Step, live: tuple[bool, ...]) -> tuple[bool, ...]:
        """Images that are guided from the next step on; measured once per step."""
        state: _Images | None = step.memory.get(_STATE)
        if state is not None and state.continued_by(step):
            return state.after
        if not self.rule.active(step) or UNCOND not in self.rule.needs(step):
            return live
        convert: Callable[[Tensor], Tensor] = (
            (lambda pred: pred) if self.space == "raw" else getattr(step, self.space)
        )
        gammas = cosine(convert(step.evaluate(COND)), convert(step.evaluate(UNCOND))).tolist()
        step.notes["cosine"] = [
            gamma if guided else None for gamma, guided in zip(gammas, live, strict=True)
        ]
        if step.index + 1 < self.min_steps:
            return live
        converged = [gamma >= self.threshold for gamma in gammas]
        if step.index == 0 and any(converged):
            warnings.warn(
                f"AdaptiveGuidance: {sum(converged)} of {len(live)} images converged at the very "
                f"first call, threshold={self.threshold:g} in space={self.space!r}: raise the "
                "threshold, or min_steps",
                stacklevel=2,
            )
        return tuple(now and not done for now, done in zip(live, converged, strict=True))
