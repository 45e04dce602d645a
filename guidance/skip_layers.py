"""Skip-layer guidance (SLG).

No paper: the method and its settings come with Stable Diffusion 3.5 medium, in Stability AI's
reference code (github.com/Stability-AI/sd3.5) and diffusers' pipeline of it. For video it is
"Spatiotemporal Skip Guidance for Enhanced Video Diffusion Sampling", Junha Hyung et al., 2024,
arXiv 2411.18664.

    block(h) = h                  for chosen transformer blocks of the perturbed evaluation
    guided   = cond + s (cond - perturbed)

Works in the model's own space; being affine, it is the same update in every space. In use for
Stable Diffusion 3.5 medium is ``SkipLayers(2.8).between(0.01, 0.2)`` beside ``CFG(4)``; 2.8 is the
default of diffusers, Stability AI's configuration has 2.5.

Deviation: both conditions of that interval are strict in diffusers, so that a run of 5 steps has
none inside; here an interval holds its start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

from torch import Tensor, nn

from guidance.core.family import Family
from guidance.core.heads import Selectors, check_selectors, resolve_blocks
from guidance.core.perturb import Call, Perturbation, PerturbedDirection
from guidance.core.schedule import Scale

_TEXT_FIRST = (
    "AuraFlow",
    "Bria",
    "Chroma",
    "Flux",
    "JointTransformerBlock",
    "LongCatImage",
    "OvisImage",
    "QwenImage",
)
"""Beginnings of the names of blocks that take image and text and return text and image."""


@dataclass(frozen=True)
class Skipped(Perturbation):
    """Chosen transformer blocks return what they are given; see ``SkipLayers`` for the layers."""

    layers: Selectors = "auto"

    def check(self, model: nn.Module, family: Family) -> tuple[str, ...]:
        return tuple(resolve_blocks(model, self.layers))

    @contextmanager
    def applied(self, model: nn.Module, call: Call) -> Iterator[None]:
        with ExitStack() as stack:
            for path, block in resolve_blocks(model, self.layers).items():
                hook = partial(_skip, call, path)
                stack.callback(block.register_forward_hook(hook, with_kwargs=True).remove)
            yield


def _skip(
    call: Call, path: str, block: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any
) -> Any:
    """The output of a block with its inputs in the rows to perturb."""
    given = signature(type(block).forward).bind(block, *args, **kwargs).arguments.values()
    inputs = [value for value in given if isinstance(value, Tensor)]
    outputs = [output] if isinstance(output, Tensor) else list(output)
    order = range(len(outputs))
    if type(block).__name__.startswith(_TEXT_FIRST):
        order = order[::-1]
    for place in order:
        result = outputs[place]
        if result is None:
            continue
        source = next((i for i, value in enumerate(inputs) if value.shape == result.shape), None)
        if source is None:
            raise ValueError(
                f"{path} cannot be skipped: no input has the shape {tuple(result.shape)} of its "
                "output; skip other blocks"
            )
        rows = call.rows_of(result, path)
        outputs[place] = result.clone()
        outputs[place][rows] = inputs.pop(source)[rows]
    return outputs[0] if isinstance(output, Tensor) else type(output)(outputs)


@dataclass(frozen=True, repr=False)
class SkipLayers(PerturbedDirection):
    """Pushes away from the prediction of a denoiser without some of its blocks.

    Needs no prompt and no unconditional rows: it works alone, and in a sum with CFG.

    Args:
        scale: ``s``, finite number from 0 up, schedule, or function of the fraction of the run.
            Neutral at 0, where nothing is evaluated.
        layers: names or patterns of transformer blocks, such as ``"transformer_blocks.7"``; see
            ``guidance.core.heads``. ``"auto"`` for a default by family.

    Raises:
        TypeError, ValueError: a setting is not of its kind or range; on entering a guide block,
            layers that the model does not have.
    """

    scale: Scale = 2.8
    layers: Selectors = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = check_selectors("SkipLayers", "layers", self.layers, numbered=False)
        object.__setattr__(self, "layers", layers)

    @property
    def perturbation(self) -> Skipped:
        return Skipped(self.layers)
