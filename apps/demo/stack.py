"""Rules from the values of a form, and back from the settings that a picture carries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from apps.demo.controls import Control, offers
from apps.demo.forms import RuleItem
from apps.demo.model import Model
from guidance import Rule, Saturation, cosine, linear

_SCHEDULES = {"linear": linear, "cosine": cosine}
_LONGEST_LIST = 16
_LONGEST_TEXT = 200


def build(items: Sequence[RuleItem], model: Model) -> Rule | None:
    """The rule of a stack, None for an empty one.

    Raises:
        TypeError, ValueError: one line that names the rule, the setting and what is wrong.
    """
    rules = [_rule(item, model) for item in items]
    return sum(rules[1:], start=rules[0]) if rules else None


def _rule(item: RuleItem, model: Model) -> Rule:
    if item.rule not in offers():
        raise ValueError(f"rule must be one of {', '.join(offers())}, found {item.rule!r:.60}")
    offer = offers()[item.rule]
    controls = {control.name: control for control in offer.controls}
    if unknown := sorted(item.settings.keys() - controls.keys()):
        raise ValueError(f"{item.rule} has no setting {unknown[0]!r:.60}")
    settings: dict[str, Any] = {}
    for control in offer.controls:
        value = item.settings.get(control.name, control.default)
        where = f"{item.rule}: {control.label.lower()}"
        settings |= {control.name: _READERS[control.kind](value, control, model, where)}
    rule = offer.rule(**settings | _beside(item.rule, settings, model))
    if item.between == (0.0, 1.0):
        return rule
    return rule.between(*item.between)


def _beside(name: str, settings: dict[str, Any], model: Model) -> dict[str, Any]:
    """Settings that the demo itself makes."""
    match name:
        case "DynamicCFG":
            return {"evaluators": Saturation()}
        case "MinorityGuidance":
            return {"classifier": model.minority}
        case "PerpNeg":
            texts, weights = zip(*settings["negatives"], strict=True)
            return {"negatives": texts, "weights": weights}
        case _:
            return {}


def _number(value: Any, control: Control, model: Model, where: str) -> float | None:
    if value is None and control.optional:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ValueError(f"{where} must be a number, found {_shown(value)}")
    if control.high is not None and value > control.high:
        raise ValueError(f"{where} must be at most {control.high:g} here, found {value:g}")
    return float(value)


def _whole(value: Any, control: Control, model: Model, where: str) -> int | None:
    number = _number(value, control, model, where)
    if number is not None and number % 1:
        raise ValueError(f"{where} must be a whole number, found {number:g}")
    return None if number is None else int(number)


def _scale(value: Any, control: Control, model: Model, where: str) -> Any:
    if not isinstance(value, Mapping):
        return _number(value, control, model, where)
    ends = dict(value)
    schedule = _SCHEDULES.get(str(ends.pop("schedule", None)))
    if schedule is None or set(ends) != {"start", "stop"}:
        raise ValueError(
            f"{where} must be a number, or a schedule ({', '.join(_SCHEDULES)}) with start and "
            f"stop, found {_shown(value)}"
        )
    start, stop = (_number(ends[end], control, model, where) for end in ("start", "stop"))
    if start is None or stop is None:
        raise ValueError(f"{where}: a schedule needs both a start and a stop")
    return schedule(start, stop)


def _numbers(value: Any, control: Control, model: Model, where: str) -> tuple[float | None, ...]:
    return tuple(_number(item, control, model, where) for item in _listed(value, where))


def _flag(value: Any, control: Control, model: Model, where: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where} must be true or false, found {_shown(value)}")
    return value


def _choice(value: Any, control: Control, model: Model, where: str) -> str | None:
    if value is None and control.optional:
        return None
    if value not in control.choices:
        raise ValueError(
            f"{where} must be one of {', '.join(control.choices)}, found {_shown(value)}"
        )
    return str(value)


def _layers(value: Any, control: Control, model: Model, where: str) -> Any:
    if value in ("auto", []):
        return "auto"
    names = tuple(_listed(value, where))
    for name in names:
        layer, _, head = str(name).partition(":")
        there = layer in model.layers and (not head or head in map(str, range(model.layers[layer])))
        if not there or not isinstance(name, str):
            raise ValueError(f"{where}: {model.name} has no layer or head {_shown(name)}")
    return names


def _weak(value: Any, control: Control, model: Model, where: str) -> Any:
    choices = model.weak
    if value is None and choices:
        return next(iter(choices.values()))
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{where} must be one of {', '.join(choices)}, found {_shown(value)}")
    return choices[value]


def _text(value: Any, control: Control, model: Model, where: str) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise ValueError(
            f"{where} must be a text of at most {_LONGEST_TEXT} characters, found {_shown(value)}"
        )
    return value


def _negatives(
    value: Any, control: Control, model: Model, where: str
) -> list[tuple[str, float | None]]:
    pairs = []
    for item in _listed(value, where):
        if not isinstance(item, list | tuple) or len(item) != 2:
            raise ValueError(f"{where} must be texts with weights, found {_shown(item)}")
        text = _text(item[0], control, model, where)
        if text is None or not text.strip():
            raise ValueError(f"{where}: write what the pictures should not show")
        pairs.append((text, _number(item[1], control, model, where)))
    return pairs


def _listed(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= _LONGEST_LIST:
        raise ValueError(
            f"{where} must be a list of 1 to {_LONGEST_LIST} entries, found {_shown(value)}"
        )
    return value


def _shown(value: Any) -> str:
    return f"{value!r:.60}"


_READERS: dict[str, Callable[[Any, Control, Model, str], Any]] = {
    "scale": _scale,
    "number": _number,
    "whole": _whole,
    "numbers": _numbers,
    "flag": _flag,
    "choice": _choice,
    "layers": _layers,
    "weak": _weak,
    "text": _text,
    "negatives": _negatives,
}
