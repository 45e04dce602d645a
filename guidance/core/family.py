"""How each denoiser is called: the fields of a row of the table, and the functions that read it.

Rows are named, never guessed: an argument that is not listed under ``rows`` is passed on as it is.
The table itself is in ``guidance.core.families``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import atan2
from typing import Any

import torch
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
    if family.sample not in {_name(path) for path in family.rows} or COND not in family.order:
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


@cache
def _parameters(cls: type) -> tuple[str, ...]:
    return tuple(inspect.signature(cls.forward).parameters)[1:]  # type: ignore[attr-defined]


def _name(path: str) -> str:
    return _place(path)[0]


def _place(path: str) -> tuple[str, str]:
    """Name of the argument, and of the entry in it if that is a dict."""
    name, _, inner = path.partition("[")[0].partition(".")
    return name, inner


class Arguments:
    """Arguments of one denoiser call by name, or of some of its rows.

    Attributes:
        family: layout of the call.
        values: the arguments by name.
        positional: names of those that were passed by position.
    """

    def __init__(self, family: Family, values: dict[str, Any], positional: Sequence[str]) -> None:
        self.family, self.values, self.positional = family, values, tuple(positional)

    @classmethod
    def of(
        cls, family: Family, model: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Arguments:
        """The arguments of a call of the denoiser class ``model``."""
        positional = _parameters(model)[: len(args)]
        values = dict(zip(positional, args, strict=True)) | dict(kwargs)
        return cls(family, values, positional)

    @property
    def sample(self) -> Tensor:
        """Noisy input of all rows; a list of rows comes back stacked."""
        sample = self.values[self.family.sample]
        return torch.stack(tuple(sample)) if isinstance(sample, list | tuple) else sample

    @property
    def total(self) -> int:
        """Number of rows."""
        return len(self.values[self.family.sample])

    @property
    def time(self) -> float:
        """Time in the units of the scheduler's timesteps, that of the noisiest frame or token."""
        time = self.values[self.family.timestep]
        if isinstance(time, list | tuple):
            time = time[0]
        if not isinstance(time, Tensor) or time.numel() == 1:
            return self.family.time(float(time))
        return max(self.family.time(float(end)) for end in torch.aminmax(time))

    def call(self, denoiser: Callable[..., Any]) -> Any:
        """The denoiser's output for these arguments."""
        # UNets use up the list of a T2I-Adapter's residuals, so that they get one of their own.
        values = {k: [*v] if isinstance(v, list) else v for k, v in self.values.items()}
        args = [values.pop(name) for name in self.positional]
        return denoiser(*args, **values)

    def take(self, rows: slice | list[int]) -> Arguments:
        """The arguments with only some of their rows."""

        def taken(value: Any, path: str) -> Any:
            return _take(value, rows, self.total, path)

        return self._with_rows(taken)

    def join(self, others: Sequence[Arguments]) -> Arguments | None:
        """These rows followed by those of other calls; None where one call cannot hold them."""
        if any(not self._agrees(other) for other in others):
            return None
        calls = (self, *others)
        totals = [call.total for call in calls]

        def joined(value: Any, path: str) -> Any:
            name, inner = _place(path)
            values: list[Any] = [call.values.get(name) for call in calls]
            return _join([item[inner] for item in values] if inner else values, totals, path)

        try:
            return self._with_rows(joined)
        except _Unjoinable:
            return None

    def replaced(self, source: Arguments) -> Arguments:
        """These noisy inputs with everything else, but what changes stepwise, from another call."""
        family = self.family
        own = {family.sample, family.timestep, *map(_name, family.stepwise)}
        values = {
            name: value if name in own else source.values.get(name, value)
            for name, value in self.values.items()
        }
        return Arguments(family, values, self.positional)

    def edited(self, edit: Callable[[str, Tensor], Tensor]) -> Arguments:
        """These arguments with those of the embedded prompt changed."""
        values = dict(self.values)
        for name in self.family.text:
            outer, _, inner = name.partition(".")
            value = values.get(outer)
            if inner and isinstance(value, Mapping) and isinstance(value.get(inner), Tensor):
                values[outer] = {**value, inner: edit(name, value[inner])}
            elif not inner and isinstance(value, Tensor):
                values[outer] = edit(name, value)
        return Arguments(self.family, values, self.positional)

    def _with_rows(self, change: Callable[[Any, str], Any]) -> Arguments:
        """These arguments with every one that holds rows changed."""
        values = dict(self.values)
        for path in self.family.rows:
            name, inner = _place(path)
            value = values.get(name)
            if inner and isinstance(value, Mapping) and inner in value:
                values[name] = {**value, inner: change(value[inner], path)}
            elif not inner and value is not None:
                values[name] = change(value, path)
        return Arguments(self.family, values, self.positional)

    def _agrees(self, other: Arguments) -> bool:
        """Whether everything that is not split into rows is the same in both calls."""
        rows = {_name(path) for path in self.family.rows}
        names = (self.values.keys() | other.values.keys()) - rows
        return all(_same(self.values.get(name), other.values.get(name)) for name in names)


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return False
    return bool(one == other)


def _take(value: Any, rows: slice | list[int], total: int, path: str) -> Any:
    """The rows of every tensor in a value; tensors that broadcast over rows are kept.

    Videos may have a row for each frame of each row of the sample.
    """
    if path.endswith("[]"):
        picked = range(total)[rows] if isinstance(rows, slice) else rows
        return type(value)(value[row] for row in picked)
    if path.endswith("[:]"):
        return _take(value.transpose(0, 1), rows, total, path[:-3]).transpose(0, 1)
    if isinstance(value, Tensor):
        if value.ndim == 0 or (len(value) == 1 and total > 1):
            return value
        frames, rest = divmod(len(value), total)
        if rest:
            raise ValueError(
                f"{path} must have {total} rows like the sample, found shape {tuple(value.shape)}"
            )
        return (
            value.unflatten(0, (total, frames))[rows].flatten(0, 1) if frames > 1 else value[rows]
        )
    if isinstance(value, Mapping):
        return {key: _take(item, rows, total, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_take(item, rows, total, path) for item in value)
    return value


class _Unjoinable(Exception):
    """Rows of different shapes, which one call cannot hold."""


def _join(values: list[Any], totals: list[int], path: str) -> Any:
    """The rows of several calls in one value, laid out as ``_take`` reads it."""
    first = values[0]
    if any(type(value) is not type(first) for value in values):
        raise _Unjoinable
    if path.endswith("[]"):
        return type(first)(item for value in values for item in value)
    if path.endswith("[:]"):
        turned = [value.transpose(0, 1) for value in values]
        return _join(turned, totals, path[:-3]).transpose(0, 1)
    if isinstance(first, Tensor) and first.ndim:
        if any(value.shape[1:] != first.shape[1:] for value in values):
            raise _Unjoinable
        rows = zip(values, totals, strict=True)
        return torch.cat([v.expand(total, *v.shape[1:]) if len(v) == 1 else v for v, total in rows])
    if isinstance(first, Mapping):
        return {key: _join([value[key] for value in values], totals, path) for key in first}
    if isinstance(first, list | tuple):
        parts = zip(*values, strict=True)
        return type(first)(_join(list(items), totals, path) for items in parts)
    return first
