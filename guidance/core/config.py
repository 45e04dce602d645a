"""Settings to and from JSON types, for rules and schedules inside rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar

from torch import nn

from guidance.core.schedule import Schedule


class Part:
    """Base of settings objects inside rules, such as evaluators, that text and JSON may name.

    Subclasses are frozen dataclasses.
    """

    known: ClassVar[dict[str, type[Part]]] = {}

    def __init_subclass__(cls) -> None:
        if not cls.__name__.startswith("_"):
            Part.known[cls.__name__] = cls

    def check_pipe(self, pipe: Any, denoisers: Sequence[nn.Module]) -> None:
        """Raise ValueError where it belongs to other models, see ``Rule.check_pipe``."""


def encode(value: Any, where: str) -> Any:
    """The value as JSON types; ``where`` names it in the error.

    Raises:
        ValueError: the value has no JSON form, as a function or a model has not.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Schedule | Part):
        kind = "schedule" if isinstance(value, Schedule) else "part"
        settings = {item.name: encode(getattr(value, item.name), where) for item in fields(value)}  # type: ignore[arg-type]
        return {kind: type(value).__name__, **settings}
    if isinstance(value, list | tuple):
        return [encode(item, where) for item in value]
    if hasattr(value, "to_config"):
        return value.to_config()
    raise ValueError(
        f"{where} has no JSON form: expected numbers, text, rules, schedules or parts of rules, "
        f"found {value!r}; a function has none, a schedule such as piecewise(...) has"
    )


def decode(value: Any) -> Any:
    """What ``encode`` described; lists come back as tuples."""
    from guidance.core.rule import Rule

    if isinstance(value, list):
        return tuple(decode(item) for item in value)
    if isinstance(value, Mapping):
        if "rule" in value:
            return Rule.from_config(value)
        settings = dict(value)
        if "part" in value:
            return _part(settings.pop("part"), settings)
        name = settings.pop("schedule", None)
        if name not in Schedule.known:
            raise ValueError(
                f"config: schedule must be one of {', '.join(Schedule.known)}, found {name!r}"
            )
        return Schedule.known[name](**{key: decode(item) for key, item in settings.items()})
    return value


def _part(name: Any, settings: Mapping[str, Any]) -> Part:
    if name not in Part.known:
        raise ValueError(
            f"config: part must be one of {', '.join(sorted(Part.known))}, found {name!r}"
        )
    return Part.known[name](**{key: decode(item) for key, item in settings.items()})
