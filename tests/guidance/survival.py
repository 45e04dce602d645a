"""What the engine must survive: a guided call under anything that users do to their pipelines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from guidance import CFG, COND, Direction, Step, guide, perturbed, prompt
from guidance.core.perturb import Call, Perturbation
from guidance.core.prediction import Branch
from tests import tiny

SELF_ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"
NEGATIVE = prompt(tiny.NEGATIVE)


@dataclass(frozen=True, repr=False)
class Away(Direction):
    """Classifier-free guidance with any branch in the place of uncond."""

    branch: Branch = NEGATIVE
    scale: float = 5.0

    def needs(self, step: Step) -> Iterable[Branch]:
        return (self.branch,)

    def prompts(self) -> tuple[prompt, ...]:
        return (self.branch,) if isinstance(self.branch, prompt) else ()

    def guide(self, step: Step) -> torch.Tensor:
        other, cond = step.evaluate(self.branch), step.evaluate(COND)
        return other + self.scale * (cond - other)


@dataclass(frozen=True)
class Mute(Perturbation):
    """Replaces what a part of the denoiser puts out by zeros."""

    part: str

    @contextmanager
    def applied(self, model: nn.Module, call: Call) -> Iterator[None]:
        def mute(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            output[call.rows] = 0
            return output

        hook = model.get_submodule(self.part).register_forward_hook(mute)
        try:
            yield
        finally:
            hook.remove()


def away_from_mute(part: str = SELF_ATTENTION) -> Away:
    """Guidance away from the denoiser without one of its parts."""
    return Away(perturbed(Mute(part)), 3.0)


AWAY_FROM_MUTE = away_from_mute()


def footprint(pipe: Any) -> list[Any]:
    """What a guide block could leave behind on a pipeline and its denoiser."""
    return [
        type(pipe),
        *(
            (name, type(part), set(part.__dict__), len(part._forward_hooks))
            for name, part in tiny.denoiser(pipe).named_modules()
        ),
    ]


def check(pipe: Any, sample: Callable[..., torch.Tensor] = tiny.sample, **call: Any) -> None:
    """CFG alone is the pipeline's own, call after call, and leaves the pipeline as it was."""
    native, before = sample(pipe, scale=5.0, **call), footprint(pipe)
    assert torch.equal(sample(pipe, scale=5.0, **call), native)
    with guide(pipe, CFG(5.0)):
        for _ in range(2):
            assert torch.equal(sample(pipe, scale=2.0, **call), native)
    assert footprint(pipe) == before
    assert torch.equal(sample(pipe, scale=5.0, **call), native)
    assert not torch.equal(sample(pipe, scale=2.0, **call), native)


class Callback:
    """Counts the steps; subclasses change the pipeline or its tensors."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, pipe: Any, index: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        self.steps += 1
        return self.change(pipe, index, tensors)

    def change(self, pipe: Any, index: int, tensors: dict[str, Any]) -> dict[str, Any]:
        return {}


class ChangesLatents(Callback):
    def change(self, pipe: Any, index: int, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": tensors["latents"].flip(-1) * 0.9}


class Interrupts(Callback):
    def change(self, pipe: Any, index: int, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = index == 1
        return {}


def called(kind: type[Callback], *inputs: str) -> dict[str, Any]:
    """Call arguments that install a callback on some of the pipeline's tensors."""
    return {"callback_on_step_end": kind(), "callback_on_step_end_tensor_inputs": list(inputs)}


class Breaks:
    """Makes the denoiser raise at one of its calls."""

    def __init__(self, pipe: Any, call: int) -> None:
        self.left = call
        tiny.denoiser(pipe).register_forward_pre_hook(self)

    def __call__(self, module: torch.nn.Module, args: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("out of memory")
