"""``guide``: run a pipeline's denoiser calls through a guidance rule.

The pipeline's own classifier-free guidance stays on, so that it prepares all rows itself. The
guided prediction g goes back in the rows of every branch: its own ``u + s (c - u)`` is then g,
exactly, for every s.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import Tensor

from guidance.core.clock import Clock, Tick, prediction_type
from guidance.core.family import Arguments
from guidance.core.intercept import intercept
from guidance.core.plan import BATCHINGS, Evaluations
from guidance.core.prediction import COND, PREDICTION_TYPES, Step
from guidance.core.report import Report
from guidance.core.rule import Rule
from guidance.core.solver import next_noise_level
from guidance.core.target import Target
from guidance.rescale import rescale


class Run:
    """A guide block in progress, or ended.

    Attributes:
        rule: the rule in force.
        report: what happened at every denoiser call so far.
    """

    def __init__(self, target: Target, rule: Rule, batching: str) -> None:
        self.rule = rule
        self.report = Report(repr(rule), target.name)
        self._target, self._batching = target, batching
        self._clock = Clock(lambda: target.scheduler, target.call_count)
        self._memory: dict[Hashable, Any] = {}

    def handle(
        self, plain: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Answer one denoiser call with the guided prediction in the rows of every branch."""
        target = self._target
        arguments = Arguments(target.family, type(target.denoiser), args, kwargs)
        target.refuse(arguments.values)
        tick = self._clock.tick(arguments.timestep)
        stacked = target.has_all_rows(arguments.sample)
        if tick.index == 0:
            self._memory = {}
            if stacked:
                target.check_rows(arguments.sample)
        evaluations = Evaluations(plain, arguments, stacked, self._batching, target.missing_rows)
        step = self._step(tick, evaluations)
        if self.rule.active(step):
            evaluations.prepare((COND, *self.rule.needs(step)))
        guided = self._guided(step)
        self.report.add(tick, step, self.rule.active_names(step), evaluations.spent)
        return evaluations.answer(guided)

    def _step(self, tick: Tick, evaluations: Evaluations) -> Step:
        kind = prediction_type(self._target.scheduler)
        if kind not in PREDICTION_TYPES:
            raise ValueError(
                f"prediction_type must be one of {', '.join(PREDICTION_TYPES)}, found {kind!r}"
            )
        scheduler, eta = self._target.scheduler, self._target.setting("eta") or 0.0
        scale = self._target.setting("guidance_scale")
        return Step(
            index=tick.index,
            count=tick.count,
            timestep=tick.timestep,
            alpha=tick.alpha,
            sigma=tick.sigma,
            x=self._target.guided_channels(evaluations.sample),
            prediction_type=kind,
            evaluator=lambda branch: self._target.guided_channels(evaluations.output(branch)),
            next_level=lambda: next_noise_level(scheduler, tick.timestep, tick.position, eta),
            guidance_scale=scale,
            memory=self._memory,
        )

    def _guided(self, step: Step) -> Tensor:
        """The rule's prediction, and the rescaling that the pipeline's own call asks for."""
        cond = step.evaluate(COND)
        guided = self.rule.predict(step)
        if guided.shape != cond.shape:
            raise ValueError(
                f"{self.rule!r} must return shape {tuple(cond.shape)} like the conditional "
                f"prediction, found {tuple(guided.shape)}"
            )
        phi = self._target.setting("guidance_rescale")
        return rescale(guided, cond, phi or 0.0).to(cond.dtype)


def guide(
    pipe_or_denoiser: Any,
    rule: Rule,
    *,
    scheduler: Any = None,
    batching: str = "joint",
) -> AbstractContextManager[Run]:
    """Guide every call of a pipeline, or of a denoiser in your own loop, inside a with block.

    Call the pipeline as without it: same arguments, its own guidance on if the rule needs the
    unconditional branch. Afterwards, also after an exception, everything is as it was before.

    Args:
        pipe_or_denoiser: diffusers pipeline, or its denoiser for people with their own loop, who
            then stack the rows as the pipelines of that denoiser do.
        rule: guidance rule or chain such as ``CFG(6.0) + Rescale(0.7)``.
        scheduler: scheduler of your own loop; a pipeline's is used by default.
        batching: ``"joint"`` runs the branches of a step in one batch, ``"sequential"`` one by one
            for less memory.

    Returns:
        Context manager that yields the ``Run``.

    Raises:
        TypeError: the first argument is no pipeline or denoiser, the rule is no rule, or a bare
            denoiser comes without a scheduler.
        ValueError: an unknown or unsupported pipeline or denoiser, or unknown batching; on
            entering, a denoiser that is guided already.
    """
    if not isinstance(rule, Rule):
        raise TypeError(
            f"rule must be a guidance rule such as CFG(6.0), found {rule!r} "
            f"({type(rule).__name__}); text goes through parse_rule(text)"
        )
    if batching not in BATCHINGS:
        raise ValueError(f"batching must be one of {', '.join(BATCHINGS)}, found {batching!r}")
    target = Target(pipe_or_denoiser, scheduler)
    return _guiding(target, Run(target, rule, batching))


@contextmanager
def _guiding(target: Target, run: Run) -> Iterator[Run]:
    with ExitStack() as stack:
        stack.enter_context(intercept(target.denoiser, run.handle))
        if target.pipe is not None:
            stack.enter_context(intercept(target.pipe, target.watch))
        yield run
