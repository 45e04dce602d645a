"""A guide block in progress: what happens at a pipeline's call and at every denoiser call in it.

A pipeline that stacks the rows of its branches gets the guided prediction g in all of them, one
that calls its denoiser once for each branch gets g from every call: its own ``u + s (c - u)`` is
then g, exactly, for every s.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guidance.core.arguments import Arguments
from guidance.core.clock import Clock, Tick
from guidance.core.denoiser import Denoiser, network
from guidance.core.family import Family
from guidance.core.intercept import Handler
from guidance.core.plan import Evaluations
from guidance.core.prediction import COND, UNCOND, Branch, Step, limited, prompt
from guidance.core.rehearsal import Heard, rehearse_all
from guidance.core.report import Report
from guidance.core.rule import Rule, Token
from guidance.core.start import Starter
from guidance.core.target import Target
from guidance.core.token import Encoding, PromptToken, flat
from guidance.core.views import Views, signed
from guidance.rescale import rescale


@dataclass
class _Turn:
    """One step of a pipeline that calls its denoiser once for each branch, between two calls.

    Attributes:
        arguments: of the first call.
        answer: what was returned for it; filled in place once the guided prediction is known.
        step, tick, evaluations: of this step, None once it is answered.
    """

    arguments: Arguments
    answer: Any
    step: Step | None
    tick: Tick
    evaluations: Evaluations

    def continues(self, arguments: Arguments) -> bool:
        """Whether a call is the second of this step: the same noisy input at the same time."""
        same = arguments.time == self.arguments.time
        one, other = self.arguments.sample, arguments.sample
        return same and (one is other or (one.shape == other.shape and torch.equal(one, other)))


class Run:
    """A guide block in progress, or ended.

    Attributes:
        rule: the rule in force.
        report: what happened at every denoiser call so far.
    """

    def __init__(self, target: Target, rule: Rule, batching: str, touched: tuple[str, ...]) -> None:
        self.rule = rule
        self.report = Report(repr(rule), target.name, touched)
        self._target, self._batching = target, batching
        self._clock = Clock(lambda: target.scheduler, target.call_count)
        self._views = Views(target, self._clock)
        self._memory: dict[Hashable, Any] = {}
        self._networks: dict[nn.Module, Denoiser] = {}
        self._prompts: dict[prompt, Arguments] = {}
        self._rehearsing = False
        self._turn: _Turn | None = None
        self.starter = Starter(rule, target.name)
        self._encoding: Encoding | None = None
        self._token: PromptToken | None = None

    def pipeline_handlers(self) -> dict[str, Handler]:
        """What the pipeline's methods are intercepted by."""
        handlers: dict[str, Handler] = {"__call__": self.call_pipeline}
        if self.rule.starts:
            handlers["progress_bar"] = self.starter.progress_bar
        if self.rule.token is not None:
            handlers["encode_prompt"] = self._encode_prompt
        return handlers

    def call_pipeline(
        self, plain: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run the pipeline's own call, with its arguments at hand and the extra prompts encoded."""
        target = self._target
        target.check_unchanged()
        signature = inspect.signature(plain)
        bound = signature.bind_partial(*args, **kwargs)
        bound.apply_defaults()
        for family in target.denoisers.values():
            target.refuse(family, bound.arguments)
        target.call, self._turn = bound.arguments, None
        try:
            self._rehearsing = True
            self._prompts = rehearse_all(target.pipe, plain, bound.arguments, self.rule.prompts())
            self._rehearsing = False
            control = getattr(target.pipe, "controlnet", None)
            with self.starter.on(target.scheduler, bound.arguments, control):
                result = plain(*args, **kwargs)
            self.finish()
            return result
        finally:
            target.call, self._rehearsing, self._turn = {}, False, None
            self._encoding, self._token = None, None
            self._prompts = {}

    def call_denoiser(
        self,
        model: nn.Module,
        plain: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Answer one denoiser call with the guided prediction."""
        target, family = self._target, self._target.denoisers[model]
        arguments = Arguments.of(family, type(network(model)), args, kwargs)
        target.refuse(family, arguments.values)
        arguments = self.starter.scaled(network(model), arguments)
        if self._turn is not None and family.separate and self._turn.continues(arguments):
            return self._second_call(self._turn, arguments)
        self.finish()
        stacked = target.stacked(arguments)
        if self._rehearsing:
            size = arguments.total // len(family.order) if stacked else arguments.total
            start = family.order.index(COND) * size if stacked else 0
            raise Heard(arguments.take(slice(start, start + size)))
        tick = self._clock.tick(arguments.time)
        self.starter.check(tick, arguments)
        if tick.index == 0:
            self._memory, self._networks = {}, {}
            if stacked:
                target.check_rows(arguments)
        denoiser = self._networks.setdefault(model, Denoiser(model, plain))
        return self._first_call(denoiser, arguments, stacked, tick)

    def _encode_prompt(
        self, plain: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Keep the first call of a pipeline's ``encode_prompt`` that has text, the prompt's."""
        result = plain(*args, **kwargs)
        given = inspect.signature(plain).bind(*args, **kwargs).arguments
        unheard = self._encoding is None and not self._rehearsing
        if unheard and given.get("prompt") is not None:
            self._encoding = Encoding(plain, given, flat(result))
        return result

    def _prompt_token(self, token: Token, evaluations: Evaluations) -> PromptToken:
        if self._token is None:
            if self._encoding is None:
                raise ValueError(
                    "a token of the rule's own needs prompts as text, found embeddings: call the "
                    "pipeline with prompt"
                )
            sent = evaluations.sent
            self._token = PromptToken(self._target.pipe, self._encoding, sent, token)
        return self._token

    def finish(self) -> None:
        """Raise ValueError if the last step still waits for its unconditional call."""
        turn, self._turn = self._turn, None
        if turn is not None and turn.step is not None:
            raise self._target.missing_rows(turn.arguments.family, UNCOND)

    def _first_call(
        self, denoiser: Denoiser, arguments: Arguments, stacked: bool, tick: Tick
    ) -> Any:
        target, family = self._target, arguments.family

        def edit(name: str, value: Tensor) -> Tensor:
            return self.rule.condition(step, name, value) if self.rule.active(step) else value

        evaluations = Evaluations(
            denoiser,
            arguments,
            stacked,
            self._batching,
            self._prompts,
            edit if self.rule.conditions else None,
            lambda branch: target.missing_rows(family, branch),
        )
        step = self._views.step(tick, denoiser.module, evaluations, self._memory)
        step.notes.update(self.starter.notes(tick))
        if (token := self.rule.token) is not None and self.rule.active(step):
            evaluations.rewrite(self.rule.rewrite(step, self._prompt_token(token, evaluations)))
        if self.rule.active(step) and self.rule.differentiates(step):
            evaluations.trace()
        needs = list(self.rule.needs(step)) if self.rule.active(step) else []
        waits = family.separate and not target.without_guidance()
        if waits and any(_source(branch) == UNCOND for branch in needs):
            evaluations.prepare(branch for branch in needs if _source(branch) != UNCOND)
            answer = evaluations.answer(signed(family, step.evaluate(COND)).clone())
            self._turn = _Turn(arguments, answer, step, tick, evaluations)
            return answer
        evaluations.prepare(needs)
        answer = evaluations.answer(self._guided(family, step))
        self.report.add(tick, step, self.rule.active_names(step), evaluations.spent)
        if family.separate:
            self._turn = _Turn(arguments, answer, None, tick, evaluations)
        return answer

    def _second_call(self, turn: _Turn, arguments: Arguments) -> Any:
        """The unconditional call: evaluated only if the rule needs it.

        The answer to the first call becomes g in place. Where the pipeline has copied it before,
        it stays c, and u of ``u + w (c - u) = g`` is the answer to the second.
        """
        step, evaluations, family = turn.step, turn.evaluations, arguments.family
        self._turn = None
        if step is None:
            return turn.answer
        evaluations.add(UNCOND, arguments)
        evaluations.prepare(self.rule.needs(step))
        guided = self._guided(family, step)
        self.report.add(turn.tick, step, self.rule.active_names(step), evaluations.spent)
        if family.copies and step.guidance_scale is not None:
            cond = signed(family, step.evaluate(COND))
            return evaluations.answer(cond + (cond - guided) / (step.guidance_scale - 1))
        return evaluations.answer(guided, into=turn.answer)

    def _guided(self, family: Family, step: Step) -> Tensor:
        """The rule's prediction, and the rescaling that the pipeline's own call asks for."""
        cond = step.evaluate(COND)
        guided = self.rule.predict(step)
        if guided.shape != cond.shape:
            raise ValueError(
                f"{self.rule!r} must return shape {tuple(cond.shape)} like the conditional "
                f"prediction, found {tuple(guided.shape)}"
            )
        if family.divides:
            guided = guided + (guided == 0) * max(torch.finfo(guided.dtype).tiny, 1e-18)
        phi = self._target.setting("guidance_rescale")
        return signed(family, rescale(guided, cond, phi or 0.0).to(cond.dtype))


def _source(branch: Branch) -> Branch:
    """The branch whose rows are needed."""
    return branch.branch if isinstance(branch, limited) else branch
