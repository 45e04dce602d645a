"""Rules with one of their settings at several values."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apps.rules import read_rule, without_folders
from apps.settings import is_guided
from guidance import Rule


@dataclass(frozen=True)
class Variant:
    """One row of a comparison.

    Attributes:
        label: the rule as text.
        rule: None for no guidance.
    """

    label: str
    rule: Rule | None


def variants(rules: Sequence[str], sweep: str | None = None) -> list[Variant]:
    """The rules in order, those with the swept setting once for each of its values.

    Args:
        rules: as text, or ``none``.
        sweep: such as ``CFG.scale=2,4,6`` or ``SoftPAG.heads="mid","up"``.

    Raises:
        ValueError: a rule or the sweep cannot be read, or no rule has the setting.
    """
    plain = [Variant(text, read_rule(text) if is_guided(text) else None) for text in rules]
    if sweep is None:
        return plain
    place, equals, values = sweep.partition("=")
    name, dot, setting = place.strip().partition(".")
    try:
        found = ast.literal_eval(f"[{values}]") if equals and dot else []
    except (SyntaxError, ValueError):
        found = []
    if not found:
        raise ValueError(f"sweep must be such as CFG.scale=2,4,6, found {sweep!r}")
    swept = [_swept(variant, name, setting, found) for variant in plain]
    if not any(swept):
        raise ValueError(f"sweep {sweep!r}: no rule is a {name}, found {', '.join(rules)}")
    return [row for variant, rows in zip(plain, swept, strict=True) for row in rows or [variant]]


def _swept(variant: Variant, name: str, setting: str, values: Sequence[Any]) -> list[Variant]:
    """The variant at each value; none where it does not have the rule."""
    if variant.rule is None or not _mentions(variant.rule.to_config(), name):
        return []
    config = variant.rule.to_config()
    made = [Rule.from_config(_replaced(config, name, setting, value)) for value in values]
    return [Variant(without_folders(repr(rule)), rule) for rule in made]


def _mentions(config: Any, name: str) -> bool:
    if isinstance(config, Mapping):
        return _is(config, name) or any(_mentions(value, name) for value in config.values())
    return isinstance(config, list) and any(_mentions(item, name) for item in config)


def _replaced(config: Any, name: str, setting: str, value: Any) -> Any:
    """A rule's JSON with a setting of every rule of a name at a value."""
    if isinstance(config, Mapping):
        own = {setting: value} if _is(config, name) else {}
        if own and setting not in config:
            known = ", ".join(key for key in config if key not in ("rule", "between"))
            raise ValueError(f"sweep: {name} has no setting {setting!r}; expected one of {known}")
        return {key: _replaced(item, name, setting, value) for key, item in config.items()} | own
    if isinstance(config, list):
        return [_replaced(item, name, setting, value) for item in config]
    return config


def _is(config: Mapping[str, Any], name: str) -> bool:
    return str(config.get("rule", "")).lower() == name.lower()
