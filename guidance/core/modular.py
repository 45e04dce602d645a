"""Rules as guiders of diffusers' modular pipelines, which combine predictions by a component."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import torch
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput
from torch import Tensor

from guidance.core.arguments import Arguments
from guidance.core.clock import Clock, Tick, prediction_type
from guidance.core.denoiser import network
from guidance.core.family import family_of
from guidance.core.prediction import COND, UNCOND, Branch, Step, limited
from guidance.core.rule import Rule
from guidance.core.solver import next_noise_level


class RuleGuider(BaseGuidance):
    """A rule that needs only cond and uncond as a guider; made by ``to_guider``."""

    _input_predictions = ["pred_cond", "pred_uncond"]  # noqa: RUF012  as diffusers declares it

    def __init__(self, rule: Rule, scheduler: Any) -> None:
        super().__init__()
        self.register_to_config(rule=repr(rule))
        self.rule, self._scheduler = rule, scheduler
        self._clock = Clock(lambda: scheduler, lambda: None)
        self._memory: dict[Hashable, Any] = {}
        self._tick: Tick
        self._x = torch.empty(1, 1)
        self._hook: Any = None

    @property
    def num_conditions(self) -> int:
        """Predictions that a step may need; pipelines encode as many prompts before the first."""
        return 2 if self._enabled else 1

    @property
    def is_conditional(self) -> bool:
        return self._count_prepared == 1

    def set_state(self, step: int, num_inference_steps: int, timestep: Any) -> None:
        super().set_state(step, num_inference_steps, timestep)
        self._tick = self._clock.tick(float(timestep))
        if self._tick.index == 0:
            self._memory = {}

    def prepare_inputs(self, data: Any) -> list[Any]:
        return [self._prepare_batch(data, *branch) for branch in self._branches()]

    def prepare_inputs_from_block_state(self, data: Any, input_fields: Any) -> list[Any]:
        return [
            self._prepare_batch_from_block_state(input_fields, data, *branch)
            for branch in self._branches()
        ]

    def prepare_models(self, denoiser: Any) -> None:
        """Look at the noisy input of the call that is about to be made."""
        super().prepare_models(denoiser)
        model = network(denoiser)
        family = family_of(model, None)
        if family is None or family.negated:
            raise refusal(self.rule, f"because {type(model).__name__} is not known")

        def look(_: Any, args: Any, kwargs: Any) -> None:
            self._x = Arguments.of(family, type(model), args, kwargs).sample

        self._hook = denoiser.register_forward_pre_hook(look, with_kwargs=True)

    def cleanup_models(self, denoiser: Any) -> None:
        self._hook.remove()

    def __call__(self, data: list[Any]) -> GuiderOutput:
        found = {getattr(batch, self._identifier_key): batch.noise_pred for batch in data}
        return self.forward(**found)

    def forward(self, pred_cond: Tensor, pred_uncond: Tensor | None = None) -> GuiderOutput:
        guided = pred_cond
        if self._enabled:
            guided = self.rule.predict(self._step_of(pred_cond, pred_uncond))
        pred = guided.to(pred_cond.dtype)
        return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=pred_uncond)

    def _branches(self) -> list[tuple[int, str]]:
        """Index and name of each prediction that this step needs."""
        step = self._step_of()
        needs: Iterable[Branch] = self.rule.needs(step) if self.rule.active(step) else ()
        uncond = self._enabled and any(_known(self.rule, branch) == UNCOND for branch in needs)
        return list(enumerate(self._input_predictions))[: 1 + uncond]

    def _step_of(self, cond: Tensor | None = None, uncond: Tensor | None = None) -> Step:
        """This step, also before its predictions are there, with the input of the last one then."""
        scheduler, tick = self._scheduler, self._tick

        def evaluate(branch: Branch) -> Tensor:
            found = cond if _known(self.rule, branch) == COND else uncond
            if found is None:
                raise refusal(self.rule, f"because it reads {branch!r} before it is there")
            if isinstance(branch, limited):
                live = torch.tensor(branch.live, device=found.device)
                return torch.where(live.view(-1, *[1] * (found.ndim - 1)), found, evaluate(COND))
            return found

        return Step(
            index=tick.index,
            count=tick.count,
            timestep=tick.timestep,
            alpha=tick.alpha,
            sigma=tick.sigma,
            x=self._x,
            prediction_type=prediction_type(scheduler),
            scheduler=type(scheduler).__name__,
            evaluator=evaluate,
            after=self._clock.after,
            next_level=lambda: next_noise_level(scheduler, tick.timestep, tick.position),
            memory=self._memory,
        )


def check(rule: Rule) -> None:
    """Raise ValueError for a rule that needs more than a guider has, as far as it says so before.

    What it asks for in a run beside that is refused there.
    """
    if rule.conditions or rule.starts or rule.token is not None or rule.prompts():
        raise refusal(rule, "because it changes more than how predictions are combined")
    for part in getattr(rule, "rules", (rule,)):
        for branch in _announced(part):
            _known(rule, branch)


def refusal(rule: Rule, why: str) -> ValueError:
    """The error for a rule that cannot be a guider."""
    return ValueError(
        f"{rule!r} cannot be the guider of a modular pipeline, {why}: write guide(pipe, rule) with "
        "an ordinary pipeline"
    )


def _announced(rule: Rule) -> list[Branch]:
    """What a rule needs at a first step; nothing where that depends on the run."""
    step = Step(0, 1, 999.0, 0.6, 0.8, torch.empty(1, 1), "epsilon", lambda branch: torch.empty(1))
    try:
        return list(rule.needs(step))
    except ValueError:
        return []


def _known(rule: Rule, branch: Branch) -> Branch:
    """The branch that is to be evaluated, if it is one of a guider's."""
    source = branch.branch if isinstance(branch, limited) else branch
    if source not in (COND, UNCOND):
        raise refusal(rule, f"because it needs {source!r}")
    return source
