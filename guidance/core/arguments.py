"""The arguments of a denoiser call, taken apart into rows and put together again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from guidance.core.family import MODEL_TIME, Family, argument_of, place_of


@cache
def _parameters(cls: type) -> tuple[str, ...]:
    return tuple(inspect.signature(cls.forward).parameters)[1:]  # type: ignore[attr-defined]


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

    @property
    def one_time(self) -> bool:
        """Whether all rows, frames and tokens are at the same time."""
        time = self.values[self.family.timestep]
        times = time if isinstance(time, list | tuple) else [time]
        ends = [end for each in times for end in torch.aminmax(torch.as_tensor(each))]
        return all(bool(end == ends[0]) for end in ends)

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

    def with_sample(self, sample: Tensor) -> Arguments:
        """These arguments with another noisy input; channels that it lacks stay as they are."""
        family, own = self.family, self.sample
        axis, size = family.channels, sample.shape[family.channels]
        rest = own.narrow(axis, size, own.shape[axis] - size)
        whole: Any = torch.cat([sample.to(own.dtype), rest], axis)
        value = self.values[family.sample]
        if isinstance(value, list | tuple):
            whole = type(value)(whole)
        return Arguments(family, {**self.values, family.sample: whole}, self.positional)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor by its path, ``"outer.inner"`` for those in dicts."""
        for name, value in self.values.items():
            if isinstance(value, Tensor):
                yield name, value
            elif isinstance(value, Mapping):
                for inner, item in value.items():
                    if isinstance(item, Tensor):
                        yield f"{name}.{inner}", item

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Arguments:
        """These arguments with some of their tensors, by path, replaced in their dtype."""
        values = dict(self.values)
        for path, tensor in tensors.items():
            name, inner = place_of(path)
            if inner:
                values[name] = {**values[name], inner: tensor.to(values[name][inner].dtype)}
            else:
                values[name] = tensor.to(values[name].dtype)
        return Arguments(self.family, values, self.positional)

    def with_time(self, timestep: float) -> Arguments:
        """These arguments at another scheduler timestep.

        Frames and tokens with a time of their own, below the noisiest, keep it.

        Raises:
            ValueError: nobody has told how the family's model times follow from timesteps.
        """
        family = self.family
        if family.time not in MODEL_TIME:
            known = ", ".join(function.__name__ for function in MODEL_TIME)
            raise ValueError(
                f"family {family.model}: a step at another noise level needs a time that is one of "
                f"{known}, found {family.time!r}"
            )
        time = _replace_time(
            self.values[family.timestep],
            lambda value: abs(family.time(value) - self.time) <= 1e-6 * abs(self.time),
            MODEL_TIME[family.time](timestep),
        )
        return Arguments(family, {**self.values, family.timestep: time}, self.positional)

    def with_labels(self, labels: Sequence[int]) -> Arguments:
        """These arguments with other class labels, one for each row."""
        own = self.values["class_labels"]
        values = {**self.values, "class_labels": own.new_tensor(labels)}
        return Arguments(self.family, values, self.positional)

    def join(self, others: Sequence[Arguments]) -> Arguments | None:
        """These rows followed by those of other calls; None where one call cannot hold them."""
        if any(not self._agrees(other) for other in others):
            return None
        calls = (self, *others)
        totals = [call.total for call in calls]

        def joined(value: Any, path: str) -> Any:
            name, inner = place_of(path)
            values: list[Any] = [call.values.get(name) for call in calls]
            return _join([item[inner] for item in values] if inner else values, totals, path)

        try:
            return self._with_rows(joined)
        except _Unjoinable:
            return None

    def replaced(self, source: Arguments) -> Arguments:
        """These noisy inputs with everything else, but what changes stepwise, from another call."""
        family = self.family
        own = {family.sample, family.timestep, *map(argument_of, family.stepwise)}
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
            name, inner = place_of(path)
            value = values.get(name)
            if inner and isinstance(value, Mapping) and inner in value:
                values[name] = {**value, inner: change(value[inner], path)}
            elif not inner and value is not None:
                values[name] = change(value, path)
        return Arguments(self.family, values, self.positional)

    def _agrees(self, other: Arguments) -> bool:
        """Whether everything that is not split into rows is the same in both calls."""
        rows = {argument_of(path) for path in self.family.rows}
        names = (self.values.keys() | other.values.keys()) - rows
        return all(_same(self.values.get(name), other.values.get(name)) for name in names)


def _replace_time(time: Any, current: Callable[[float], bool], new: float) -> Any:
    """A time, or a tensor or list of times, with those that are current replaced."""
    if isinstance(time, list | tuple):
        return type(time)(_replace_time(item, current, new) for item in time)
    if not isinstance(time, Tensor):
        return type(time)(new) if current(float(time)) else time
    ends = [end for end in torch.aminmax(time) if current(float(end))]
    if not time.is_floating_point():
        new = round(new)
    return torch.where(time == ends[0], new, time).to(time.dtype) if ends else time


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
