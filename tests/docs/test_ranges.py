"""Ranges in the tables of settings are those that constructors check."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from math import inf, nextafter
from typing import Any

import pytest

from guidance import CADS, DynamicCFG, PerpNeg
from guidance.core.chain import Chain
from personalize import Perfusion, TextualInversion, ZOODiP
from tests.docs.pages import read, sections, tables
from tests.docs.test_pages import CLASSES, TRAINED, page_of
from tests.guidance.rules import EXAMPLES

_NUMBER = r"-?\d+(?:\.\d+)?"
_RANGE = re.compile(
    r"(?:(?P<whole>whole number|class) |numbers? )?"
    rf"(?:(?P<open>above) |from )?(?P<low>{_NUMBER}|`\w+`(?= to ))"
    rf"(?: to (?P<below>below )?(?P<high>{_NUMBER}))?(?P<texts> texts)?"
)
_CHOICES = re.compile(r'`"\w+"`(?:, `"\w+"`)+(?:, or a function)?')

AS_GIVEN: dict[tuple[type, str], Callable[[Any], Any]] = {
    (DynamicCFG, "scales"): lambda scale: (scale,),
    (PerpNeg, "negatives"): lambda count: ("grey",) * count,
}
"""Settings whose ranges are of what they hold."""


@dataclass(frozen=True)
class Stated:
    """A setting, and what its row says of it.

    Attributes:
        base: other settings that allow the whole range.
        name: of the setting.
        taken: the ends of the range and a number between, or the choices.
        refused: what is next to the ends and outside, or no choice.
        whole: whether only whole numbers are in it.
    """

    base: Any
    name: str
    taken: tuple[Any, ...]
    refused: tuple[Any, ...]
    whole: bool = False

    def __str__(self) -> str:
        return f"{type(self.base).__name__}.{self.name}"

    def build(self, value: Any) -> Any:
        given = AS_GIVEN.get((type(self.base), self.name), lambda same: same)
        return replace(self.base, **{self.name: given(value)})


def bases() -> dict[type, Any]:
    """An object of each class with a page."""
    rules: list[Any] = []
    for example in EXAMPLES:
        rules += example.rule.rules if isinstance(example.rule, Chain) else [example.rule]
    trained = [TextualInversion("<cat>"), Perfusion("<cat>", "cat"), ZOODiP("<cat>")]
    return {type(each): each for each in (*rules, CADS(tau2=1.0), *trained)}


def ranges(cls: Any) -> dict[str, str]:
    """What the table of a class says of the range of each setting."""
    names = [item.name for item in fields(cls) if item.init]
    found = [
        {row[0].strip("`"): row[2] for row in body}
        for head, *body in tables(sections(read(page_of(cls)))["Settings"])
        if head[2] == "range"
    ]
    return next(table for table in found if list(table) == names)


def numbers(base: Any, name: str, text: str) -> Stated | None:
    """What a cell says of numbers; None if it says nothing of them."""
    first = re.split("[;,]", text)[0]
    found = _RANGE.fullmatch(first)
    if found is None:
        assert not re.search(r"(?<![\w`.])\d", first), f"{name}: {text} cannot be read"
        return None
    whole = bool(found["whole"] or found["texts"])
    low = getattr(base, found["low"].strip("`")) if "`" in found["low"] else float(found["low"])
    ends = [_end(low, -inf, found["open"] is not None, whole)]
    if found["high"]:
        ends.append(_end(float(found["high"]), inf, found["below"] is not None, whole))
    taken, refused = zip(*ends, strict=True)
    between = () if whole else ((low + float(found["high"] or low + 1)) / 2,)
    return Stated(base, name, taken + between, refused, whole)


def _end(end: float, out: float, is_open: bool, whole: bool) -> tuple[Any, Any]:
    """The last number of a range at an end of it, and the next one."""
    if whole:
        return int(end), int(end) + (1 if out > 0 else -1)
    return (nextafter(end, -out), end) if is_open else (end, nextafter(end, out))


def choices(base: Any, name: str, text: str) -> Stated | None:
    """What a cell says of names; None if it is not a list of them."""
    if not _CHOICES.fullmatch(text):
        return None
    return Stated(base, name, tuple(re.findall(r'"(\w+)"', text)), ("another", ""))


def stated() -> list[Stated]:
    made = bases()
    cells = [
        (made[cls], name, text)
        for cls in CLASSES
        if cls in made
        for name, text in ranges(cls).items()
    ]
    return [found for cell in cells if (found := numbers(*cell) or choices(*cell))]


STATED = stated()


def test_ranges_are_found() -> None:
    assert len([each for each in STATED if isinstance(each.taken[0], str)]) >= 8
    assert len([each for each in STATED if not isinstance(each.taken[0], str)]) >= 50
    assert {type(each.base) for each in STATED} >= TRAINED.keys()
    for cls in CLASSES.keys() - bases().keys():
        assert not any(re.search(r"\d to|from \d|above", text) for text in ranges(cls).values())


@pytest.mark.parametrize("each", STATED, ids=str)
def test_ends_are_taken_and_what_is_next_to_them_is_refused(each: Stated) -> None:
    for value in each.taken:
        each.build(value)
    for value in each.refused:
        with pytest.raises((TypeError, ValueError), match=each.name):
            each.build(value)


WHOLE = [each for each in STATED if each.whole]
COUNTED = [each for each in WHOLE if (type(each.base), each.name) not in AS_GIVEN]


@pytest.mark.parametrize("each", COUNTED, ids=str)
def test_whole_numbers_are_whole(each: Stated) -> None:
    with pytest.raises((TypeError, ValueError), match=each.name):
        each.build(each.taken[0] + 0.5)
