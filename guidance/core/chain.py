"""Several guidance methods as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from guidance.core.family import Family
from guidance.core.kinds import Conditioning, Correction, Direction, Starting
from guidance.core.prediction import COND, Branch, Step, prompt, wide
from guidance.core.rule import Rule, Start, Token

if TYPE_CHECKING:
    from guidance.core.token import PromptToken


@dataclass(frozen=True, repr=False)
class Chain(Rule):
    """Several rules as one, written ``a + b``.

    Directions are summed around the conditional prediction, then corrections act in the order
    written. A single direction is used as it is, so that a chain rounds like the rule in it.

    Raises:
        TypeError: something in ``rules`` is no rule.
        ValueError: no rule, or two rules that both own the uncond direction.
    """

    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        flat: list[Rule] = []
        for rule in self.rules:
            flat.extend(rule.rules if isinstance(rule, Chain) else (rule,))
        for rule in flat:
            if not isinstance(rule, Direction | Correction | Conditioning | Starting):
                raise TypeError(
                    f"Chain: rules must be guidance rules such as CFG(6.0), found {rule!r}"
                )
        if not flat:
            raise ValueError("Chain: rules must hold at least one rule, found none")
        owners = [rule for rule in flat if rule.owns_uncond]
        if len(owners) > 1:
            raise ValueError(
                f"Chain: at most one rule may own the uncond direction, found "
                f"{' and '.join(map(repr, owners))}; keep one of them"
            )
        singles = {
            "change the start of a run": [rule for rule in flat if rule.starts],
            "put a token into the prompt": [rule for rule in flat if rule.token is not None],
        }
        for what, found in singles.items():
            if len(found) > 1:
                raise ValueError(
                    f"Chain: at most one rule may {what}, found "
                    f"{' and '.join(map(repr, found))}; keep one of them"
                )
        object.__setattr__(self, "rules", tuple(flat))

    @property
    def owns_uncond(self) -> bool:  # type: ignore[override]
        return any(rule.owns_uncond for rule in self.rules)

    def needs(self, step: Step) -> Iterable[Branch]:
        return [branch for rule in self._active(step) for branch in rule.needs(step)]

    @property
    def token(self) -> Token | None:
        return next((rule.token for rule in self.rules if rule.token is not None), None)

    def rewrite(self, step: Step, token: PromptToken) -> Mapping[str, Tensor]:
        for rule in self._active(step):
            if rule.token is not None:
                return rule.rewrite(step, token)
        return {}

    @property
    def starts(self) -> bool:
        return any(rule.starts for rule in self.rules)

    def start(self, times: Sequence[float]) -> Start:
        return next(rule for rule in self.rules if rule.starts).start(times)

    def differentiates(self, step: Step) -> bool:
        return any(rule.differentiates(step) for rule in self._active(step))

    def prompts(self) -> tuple[prompt, ...]:
        return tuple(branch for rule in self.rules for branch in rule.prompts())

    def check(self, model: nn.Module, family: Family) -> tuple[str, ...]:
        return tuple(name for rule in self.rules for name in rule.check(model, family))

    @property
    def conditions(self) -> bool:
        return any(rule.conditions for rule in self.rules)

    def condition(self, step: Step, name: str, value: Tensor) -> Tensor:
        for rule in self._active(step):
            value = rule.condition(step, name, value)
        return value

    def predict(self, step: Step) -> Tensor:
        cond = step.evaluate(COND)
        active = self._active(step)
        match [rule.guide(step) for rule in active if isinstance(rule, Direction)]:
            case []:
                result = cond
            case [guided]:
                result = guided
            case several:
                base = wide(cond)
                result = (base + sum(wide(each) - base for each in several)).to(cond.dtype)
        for rule in active:
            if isinstance(rule, Correction):
                result = rule.correct(step, result)
        return result

    def active_names(self, step: Step) -> tuple[str, ...]:
        return tuple(name for rule in self.rules for name in rule.active_names(step))

    def _active(self, step: Step) -> list[Rule]:
        return [rule for rule in self.rules if rule.active(step)]

    def between(
        self,
        start: float | None = None,
        stop: float | None = None,
        *,
        sigma: tuple[float, float] | None = None,
    ) -> Chain:
        """This chain with every rule in it limited to a part of the run, see ``Rule.between``."""
        return Chain(tuple(rule.between(start, stop, sigma=sigma) for rule in self.rules))

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.rules))
