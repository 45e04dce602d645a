"""Settings of methods: what is not of its kind or out of its range is refused in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What a setting may be.

    Attributes:
        types: a bool is a number of none of them.
        expected: in words.
        fits: whether a value of these types is in the range.
    """

    types: tuple[type, ...]
    expected: str
    fits: Callable[[Any], bool] = lambda value: True


FLAG = Kind((bool,), "True or False")
TEXT = Kind((str,), "text")
FILE = Kind((str, Path), "the path of a file")


def whole(low: int) -> Kind:
    """Whole numbers from ``low`` up."""
    return Kind((int,), f"a whole number from {low} up", lambda value: value >= low)


def finite(bounds: str, within: Callable[[float], bool] = lambda value: True) -> Kind:
    """Finite numbers within bounds, which are also given in words."""

    def fits(value: float) -> bool:
        return abs(value) <= sys.float_info.max and within(value)

    return Kind((int, float), f"a finite number {bounds}".rstrip(), fits)


def optional(kind: Kind) -> Kind:
    """The same, or None."""
    return Kind(
        (*kind.types, NoneType),
        f"{kind.expected}, or None",
        lambda value: value is None or kind.fits(value),
    )


def check_settings(settings: Any, kinds: Mapping[str, Kind]) -> None:
    """Check attributes of an object.

    Raises:
        TypeError: one is not of its types.
        ValueError: one is out of its range.
    """
    for name, kind in kinds.items():
        value = getattr(settings, name)
        wrong = f"{type(settings).__name__}: {name} must be {kind.expected}, found {value!r}"
        if not isinstance(value, kind.types) or (type(value) is bool and bool not in kind.types):
            raise TypeError(f"{wrong} ({type(value).__name__})")
        if not kind.fits(value):
            raise ValueError(wrong)
