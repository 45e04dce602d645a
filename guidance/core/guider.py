"""diffusers' own guiders as rules on ordinary pipelines, and rules as guiders of modular ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from guidance.core.kinds import Direction
from guidance.core.prediction import COND, UNCOND, Branch, Step
from guidance.core.rule import Rule

_STARTED = "from_guider: started"

_OURS = {
    "AutoGuidance": "use guidance.AutoGuidance",
    "PerturbedAttentionGuidance": "use guidance.PAG, with guidance.CFG",
    "SkipLayerGuidance": "use guidance.SkipLayers, with guidance.CFG",
    "SmoothedEnergyGuidance": "use guidance.SEG, with guidance.CFG",
}


def from_guider(guider: Any) -> Direction:
    """A rule that does what one of diffusers' guiders does, at the steps at which it does it.

    Works with every guider that combines a conditional and an unconditional prediction of the
    model: classifier-free guidance, CFG-Zero*, adaptive projected, tangential, frequency-decoupled
    (needs kornia) and magnitude-aware guidance. The guider counts denoiser calls as steps. It is
    used as it is: what is changed on it acts at once, and its momentum starts anew in every run.

    Args:
        guider: object of a class in ``diffusers.guiders``.

    Raises:
        TypeError: the object is no guider.
        ValueError: the guider needs other predictions, or hooks in the model; the message names the
            rule here that does the same. In a run, predictions that the guider cannot work on.
    """
    from diffusers.guiders.guider_utils import BaseGuidance

    if not isinstance(guider, BaseGuidance):
        raise TypeError(
            f"from_guider: expected an object of a class in diffusers.guiders, found {guider!r:.80}"
        )
    name = type(guider).__name__
    hooked = type(guider).prepare_models is not BaseGuidance.prepare_models
    if hooked or guider._input_predictions != ["pred_cond", "pred_uncond"]:
        raise ValueError(
            f"from_guider: {name} needs more than a conditional and an unconditional prediction; "
            f"{_OURS.get(name, 'no rule here does the same')}"
        )
    return _Guided(guider)


def to_guider(rule: Rule, scheduler: Any) -> Any:
    """A guider for diffusers' modular pipelines that does what a rule does.

    Works with rules that combine a conditional and an unconditional prediction, and with chains of
    them: ``pipe.update_components(guider=to_guider(CFG(6) + Rescale(0.7), pipe.scheduler))``.
    The guider is not saved with the pipeline; save ``rule.to_config()``.

    Args:
        rule: guidance rule or chain.
        scheduler: the pipeline's, which tells noise levels and what the model predicts.

    Returns:
        Object of a subclass of ``diffusers.guiders.BaseGuidance``.

    Raises:
        TypeError: the first argument is no rule.
        ValueError: the rule needs other predictions, or changes more than how they are combined;
            what a rule asks for only in a run is refused there.
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"to_guider: expected a rule such as CFG(6.0), found {rule!r:.80}")
    from guidance.core.modular import RuleGuider, check

    check(rule)
    return RuleGuider(rule, scheduler)


@dataclass(frozen=True, repr=False)
class _Guided(Direction):
    """A guider as a rule; made by ``from_guider``."""

    owns_uncond: ClassVar[bool] = True

    guider: Any

    def needs(self, step: Step) -> Iterable[Branch]:
        self._place(step, step.index)
        return (UNCOND,) if self.guider.num_conditions > 1 else ()

    def guide(self, step: Step) -> Tensor:
        guider, cond = self.guider, step.evaluate(COND)
        if _STARTED not in step.memory:
            step.memory[_STARTED] = True
            # Guiders make their momentum anew when they prepare the inputs of step 0.
            self._place(step, 0)
            guider.prepare_inputs({})
        self._place(step, step.index)
        uncond = step.evaluate(UNCOND) if guider.num_conditions > 1 else None
        try:
            guided = guider.forward(cond, uncond).pred
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"{self!r} cannot work on predictions of shape {tuple(cond.shape)}: {error}"
            ) from error
        if uncond is not None:
            step.notes["scale"] = getattr(guider, "guidance_scale", None)
        return guided

    def _place(self, step: Step, index: int) -> None:
        """Tell the guider which step this is."""
        self.guider.set_state(index, step.count, torch.tensor(step.timestep))

    def __repr__(self) -> str:
        limits = "".join(map(str, self.intervals))
        return f"from_guider({type(self.guider).__name__}){limits}"

    def to_config(self) -> dict[str, Any]:
        raise ValueError(
            f"{self!r} has no JSON form; save the guider by its own save_pretrained, or use a rule "
            "of this package"
        )
