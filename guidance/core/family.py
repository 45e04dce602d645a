"""How each denoiser is called: the fields of a row of the table, which is in ``families``.

Rows are named, never guessed: an argument that is not listed under ``rows`` is passed on as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import atan2, tan
from typing import Any

from torch import Tensor

from guidance.core.prediction import COND, UNCOND, Branch

Setting = Callable[[str], Any]
"""Reads a setting of the running pipeline call by name, None where there is none."""

Native = Callable[[Tensor, Tensor, float, Setting], Tensor]
"""A pipeline's own guidance of ``uncond``, ``cond`` and ``w``."""


def same_time(time: float) -> float:
    """The model is given the scheduler's own timestep."""
    return time


def per_mille(time: float) -> float:
    """The model is given a thousandth of the scheduler's timestep."""
    return 1000 * time


def per_mille_of_signal(time: float) -> float:
    """The model is given sigma, the scheduler's timesteps are thousandfold ``sigma / alpha``."""
    return 1000 * time / (1 - time)


def share_of_angle(time: float) -> float:
    """The model is given sigma, the scheduler's timesteps are angles ``atan(sigma / alpha)``."""
    return atan2(time, 1 - time)


def reversed_per_mille(time: float) -> float:
    """The model is given 1 for clean data and 0 for noise."""
    return 1000 * (1 - time)


MODEL_TIME: dict[Callable[[float], float], Callable[[float], float]] = {
    same_time: same_time,
    per_mille: lambda time: time / 1000,
    per_mille_of_signal: lambda time: time / (1000 + time),
    share_of_angle: lambda time: tan(time) / (1 + tan(time)),
    reversed_per_mille: lambda time: 1 - time / 1000,
}
"""Scheduler timestep to model time: the inverse of each of the functions above."""


def extrapolated(uncond: Tensor, cond: Tensor, w: float, setting: Setting) -> Tensor:
    """Guidance as pipelines write it whose scale of 0 is neutral."""
    return cond + (w - 1) * (cond - uncond)


BASIC = ("hidden_states", "timestep", "encoder_hidden_states")


@dataclass(frozen=True)
class Family:
    """Call layout of one denoiser class.

    Attributes:
        model: name of the class; subclasses match too.
        sample, timestep: arguments that hold the noisy input and its time.
        rows: arguments with one row per image and branch: tensors, or lists or dicts of tensors;
            ``"outer.inner"`` names one entry of a dict, ``"name[]"`` a list with one item per row,
            ``"name[:]"`` a tensor with its rows along the second axis.
        order: branches in the order in which a pipeline stacks their rows.
        always: the pipeline stacks the rows of all branches at every scale, also a neutral one.
        separate: the pipeline calls the denoiser once for each branch, cond first, and stacks
            nothing.
        copies: such a pipeline copies the first prediction before it calls for the second, which
            then has to make up for the first.
        stepwise: arguments beside sample and timestep that change from step to step, such as the
            residuals of a ControlNet; extra prompts take those of the conditional rows.
        text: arguments that hold the embedded prompt, for methods that change the condition.
        tokens: order of the tokens in self-attention.
        channels: axis of the channels; those that input and output do not share (inpainting
            masks, learned variances) come last and are not guided.
        guided: number of the guided channels, where it is not that of the shared ones.
        scale: setting of the pipeline that holds its guidance scale.
        offset: what turns that setting into ``w`` of ``uncond + w (cond - uncond)``.
        native: the pipeline's own guidance where it is another formula than that.
        switch: what a user does to get unconditional rows.
        time: model time to scheduler timestep.
        predicts: what the model predicts, where the scheduler does not say so.
        negated: the model predicts minus the velocity.
        float32: the pipeline casts predictions to float32 before it guides.
        divides: the pipeline divides by the size of its guided prediction, also where that is zero.
        pipelines: pipeline classes that this row is for; empty for all others.
        refused: arguments of the denoiser or the pipeline that cannot be used in a guide block,
            each with the reason.
    """

    model: str
    sample: str = "hidden_states"
    rows: tuple[str, ...] = BASIC
    order: tuple[Branch, ...] = (UNCOND, COND)
    always: bool = False
    separate: bool = False
    copies: bool = False
    stepwise: tuple[str, ...] = ()
    text: tuple[str, ...] = ("encoder_hidden_states",)
    tokens: tuple[str, ...] = ("image",)
    channels: int = 1
    guided: int | None = None
    timestep: str = "timestep"
    scale: str = "guidance_scale"
    offset: float = 0.0
    native: Native | None = None
    switch: str = "guidance_scale above 1"
    time: Callable[[float], float] = same_time
    predicts: str | None = None
    negated: bool = False
    float32: bool = False
    divides: bool = False
    pipelines: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


_FAMILIES: dict[tuple[str, str | None], Family] = {}


def register_family(family: Family) -> None:
    """Teach ``guide`` the call layout of another denoiser class, or replace a known one.

    Raises:
        ValueError: the sample is not among the rows, or the order lacks the cond branch.
    """
    if family.sample not in {argument_of(path) for path in family.rows} or COND not in family.order:
        raise ValueError(
            f"family {family.model}: rows must hold {family.sample!r} and order must hold "
            f"{COND!r}, found rows={family.rows}, order={family.order}"
        )
    for pipeline in family.pipelines or (None,):
        _FAMILIES[family.model, pipeline] = family


def family_of(denoiser: object, pipe: object = None) -> Family | None:
    """The table row of a denoiser in a pipeline, by the nearest classes in their inheritance."""
    models = [cls.__name__ for cls in type(denoiser).__mro__]
    pipelines = [cls.__name__ for cls in type(pipe).__mro__]
    keys = [(model, owner) for model in models for owner in (*pipelines, None)]
    return next((_FAMILIES[key] for key in keys if key in _FAMILIES), None)


def known_families() -> tuple[str, ...]:
    """Names of the denoiser classes that ``guide`` knows."""
    return tuple(dict.fromkeys(model for model, _ in _FAMILIES))


def argument_of(path: str) -> str:
    """Name of the argument that a path in ``rows`` belongs to."""
    return place_of(path)[0]


def place_of(path: str) -> tuple[str, str]:
    """Name of the argument, and of the entry in it if that is a dict."""
    name, _, inner = path.partition("[")[0].partition(".")
    return name, inner
