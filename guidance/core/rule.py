"""What a guidance method is to the engine: settings, branches to evaluate, a pure combination."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from guidance.core.config import Part, decode, encode
from guidance.core.family import Family
from guidance.core.interval import FractionInterval, Interval, SigmaInterval
from guidance.core.prediction import Branch, Step, prompt

if TYPE_CHECKING:
    from guidance.core.chain import Chain
    from guidance.core.token import PromptToken


@dataclass(frozen=True)
class Token:
    """A token that a rule puts into the prompt.

    Attributes:
        word: whose embedding the token begins with, one token of every tokenizer of the pipeline;
            None for the mean of the vocabulary.
        position: ``"start"`` or ``"end"``; at the start too where the end of a prompt is cut off.
    """

    word: str | None = None
    position: str = "end"


@dataclass(frozen=True)
class Start:
    """How a run starts.

    Attributes:
        skipped: number of the first calls that are left out.
        boost: factor of the noise of variance 1 that the run starts from.
    """

    skipped: int = 0
    boost: float = 1.0


@dataclass(frozen=True, repr=False)
class Rule:
    """Base of all guidance methods: an immutable, validated settings object."""

    known: ClassVar[dict[str, type[Rule]]] = {}
    owns_uncond: ClassVar[bool] = False

    intervals: tuple[Interval, ...] = field(default=(), init=False)

    def __init_subclass__(cls) -> None:
        if not cls.__name__.startswith("_"):
            Rule.known[cls.__name__] = cls

    def needs(self, step: Step) -> Iterable[Branch]:
        """Branches that this rule reads at this step, beside the conditional one."""
        return ()

    def prompts(self) -> tuple[prompt, ...]:
        """Extra prompts that the rule may read, encoded once for each call of the pipeline."""
        return ()

    def check(self, model: nn.Module, family: Family) -> tuple[str, ...]:
        """Names of the layers and heads of a denoiser that the rule works on, for the report.

        Called before a guide block; raises ValueError where the settings do not fit the denoiser.
        """
        return ()

    @property
    def token(self) -> Token | None:
        """A token that the rule puts into the prompt, see ``rewrite``; None for no token."""
        return None

    def rewrite(self, step: Step, token: PromptToken) -> Mapping[str, Tensor]:
        """What the conditional rows are evaluated with in place of the embedded prompt.

        Args:
            step: the step; its branches cannot be evaluated yet.
            token: encodes the prompts with a token in them; the same in all of a pipeline's call.

        Returns:
            Arguments of the denoiser by path, as ``token.encode`` returns them; empty for no
            change.
        """
        return {}

    @property
    def starts(self) -> bool:
        """Whether the rule changes where or from what runs start."""
        return False

    def start(self, times: Sequence[float]) -> Start:
        """How a run starts; called once for each run of a rule that ``starts``.

        Args:
            times: of all calls, as shares of the noise schedule from 1, noise, down to 0.
        """
        return Start()

    def differentiates(self, step: Step) -> bool:
        """Whether the rule will call ``step.traced()`` at this step."""
        return False

    def check_pipe(self, pipe: Any, denoisers: Sequence[nn.Module]) -> None:
        """Let the rules and parts in the settings check what is guided, before a guide block.

        Args:
            pipe: the pipeline, None for a bare denoiser.
            denoisers: what is guided.

        Raises:
            ValueError: one of them, such as a trained evaluator, belongs to other models.
        """
        for item in fields(self):
            for value in _leaves(getattr(self, item.name)):
                if isinstance(value, Rule | Part):
                    value.check_pipe(pipe, denoisers)

    def predict(self, step: Step) -> Tensor:
        """Prediction to give back to the pipeline, in the model's own space, ``(B, ...)``."""
        raise NotImplementedError

    def condition(self, step: Step, name: str, value: Tensor) -> Tensor:
        """The embedded prompt that the conditional rows are evaluated with.

        Args:
            step: the step; its branches cannot be evaluated yet.
            name: the denoiser's argument, such as ``encoder_hidden_states``.
            value: the pipeline's, ``(B, tokens, width)`` or ``(B, width)``.
        """
        return value

    @property
    def conditions(self) -> bool:
        """Whether the rule changes the embedded prompt."""
        return type(self).condition is not Rule.condition

    def active(self, step: Step) -> bool:
        """Whether this step lies in every interval that the rule is limited to."""
        return all(interval.holds(step) for interval in self.intervals)

    def active_names(self, step: Step) -> tuple[str, ...]:
        """Names of the rules that act at this step, for the report."""
        return (type(self).__name__,) if self.active(step) else ()

    def between(
        self,
        start: float | None = None,
        stop: float | None = None,
        *,
        sigma: tuple[float, float] | None = None,
    ) -> Rule:
        """This rule limited to a part of the run; repeated limits must all hold.

        Args:
            start, stop: fractions of the calls, ``start <= fraction < stop``.
            sigma: EDM noise levels, ``low < sigma / alpha <= high``.

        Raises:
            ValueError: bounds reversed or out of range, or not exactly one kind given.
        """
        interval: Interval
        if sigma is None and start is not None and stop is not None:
            interval = FractionInterval(start, stop)
        elif sigma is not None and start is None and stop is None:
            if not isinstance(sigma, Sequence) or len(sigma) != 2:
                raise ValueError(f"between: sigma must be a pair (low, high), found {sigma!r}")
            interval = SigmaInterval(*sigma)
        else:
            raise ValueError(
                f"between: expected two fractions or sigma=(low, high), found start={start}, "
                f"stop={stop}, sigma={sigma}; write between(0.2, 0.8) or between(sigma=(0.3, 5))"
            )
        limited = copy.copy(self)
        object.__setattr__(limited, "intervals", (*self.intervals, interval))
        return limited

    def __add__(self, other: Rule) -> Chain:
        if not isinstance(other, Rule):
            return NotImplemented
        from guidance.core.chain import Chain  # which is a rule itself

        return Chain((self, other))

    def __repr__(self) -> str:
        given = (
            f"{item.name}={_shown(getattr(self, item.name))}"
            for item in fields(self)
            if item.init and not _is_default(item, getattr(self, item.name))
        )
        return f"{type(self).__name__}({', '.join(given)}){''.join(map(str, self.intervals))}"

    def to_config(self) -> dict[str, Any]:
        """Settings as JSON types; raises ValueError when one of them, a function say, has none."""
        config: dict[str, Any] = {"rule": type(self).__name__}
        for item in fields(self):
            if item.init:
                where = f"{type(self).__name__}: {item.name}"
                config[item.name] = encode(getattr(self, item.name), where)
        if self.intervals:
            config["between"] = [interval.to_config() for interval in self.intervals]
        return config

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Rule:
        """The rule that ``to_config`` described.

        Raises:
            ValueError: unknown rule, unknown or invalid setting.
        """
        settings = dict(config)
        name, limits = settings.pop("rule", None), settings.pop("between", [])
        if name not in Rule.known:
            raise ValueError(
                f"config: rule must be one of {', '.join(sorted(Rule.known))}, found {name!r}"
            )
        try:
            rule = Rule.known[name](**{key: decode(value) for key, value in settings.items()})
            for limit in limits:
                pair = limit.get("sigma")
                rule = rule.between(sigma=pair) if pair else rule.between(*limit["fraction"])
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"config of {name}: {error}") from error
        return rule


def _leaves(value: object) -> Iterator[object]:
    """What lists and tuples hold, at any depth."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _shown(value: object) -> str:
    """The value as text; what lives in memory alone, a network or a function, by its name."""
    in_memory = isinstance(value, nn.Module | FunctionType | MethodType)
    if in_memory or type(value).__repr__ is object.__repr__:
        return f"<{getattr(value, '__name__', type(value).__name__)}>"
    return repr(value)


def _is_default(item: Any, value: object) -> bool:
    return item.default is not MISSING and item.default == value
