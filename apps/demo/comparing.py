"""What a visitor can compare: methods, or values of one setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from apps.demo.controls import offers
from apps.demo.forms import Request, RuleItem, Stack
from apps.demo.presets import PRESETS

MINE = "My rules, from Generate"
METHODS = (MINE, *PRESETS)
MOST_ROWS = 8


class CompareRequest(Request):
    """Rows of rules, all with the same prompt and noise; ``pictures`` is the number of seeds.

    Attributes:
        kind: whether rows are ``methods`` or values of one ``setting`` of the stack.
        methods: names of ``METHODS``.
        setting: ``INDEX.NAME`` of a rule in the stack and its setting.
        values: numbers with commas between them.
        stack: the rules of the Generate tab.
    """

    kind: Literal["methods", "setting"]
    methods: Annotated[list[Literal[METHODS]], Field(max_length=MOST_ROWS)]  # type: ignore[valid-type]
    setting: Annotated[str | None, Field(max_length=60)] = None
    values: Annotated[str, Field(max_length=200)] = ""
    stack: Stack

    def rows(self) -> dict[str, list[RuleItem]]:
        """The stack of each row, by its label.

        Raises:
            ValueError: no rows, too many, or values that are no numbers.
        """
        if self.kind == "methods":
            if len(self.methods) < 2:
                raise ValueError("choose at least two methods to compare")
            chosen = {name: PRESETS.get(name) for name in self.methods}
            return {
                name: self.stack if items is None else [RuleItem(**item) for item in items]
                for name, items in chosen.items()
            }
        place, name = self._swept()
        rows = {}
        for value in _numbers(self.values):
            items = list(self.stack)
            settings = items[place].settings | {name: value}
            items[place] = items[place].model_copy(update={"settings": settings})
            rows[f"{items[place].rule} {name} {value:g}"] = items
        return rows

    def _swept(self) -> tuple[int, str]:
        if self.setting not in [place for _, place in sweepable(self.stack)]:
            raise ValueError("choose which setting to sweep; the rules are those of Generate")
        place, _, name = str(self.setting).partition(".")
        return int(place), name


def sweepable(stack: Sequence[RuleItem]) -> list[tuple[str, str]]:
    """The settings of a stack that take numbers, as label and ``INDEX.NAME``."""
    return [
        (f"{number} {item.rule}: {control.label.lower()}", f"{number - 1}.{control.name}")
        for number, item in enumerate(stack, 1)
        if item.rule in offers()
        for control in offers()[item.rule].controls
        if control.kind in ("scale", "number", "whole")
    ]


def _numbers(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ValueError(
            f"values must be numbers with commas between them, such as 1, 2, 4; found {text!r:.60}"
        ) from error
    if not all(map(math.isfinite, values)):
        raise ValueError(f"values must be finite numbers, found {text!r:.60}")
    if not 2 <= len(set(values)) <= MOST_ROWS:
        raise ValueError(f"values must be 2 to {MOST_ROWS} different numbers, found {len(values)}")
    return list(dict.fromkeys(values))
