"""A setting of a method that is not of its kind or out of its range is refused as it is made."""

from __future__ import annotations

from dataclasses import fields, replace
from math import inf, nan
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from personalize import Perfusion, TextualInversion, ZOODiP

METHODS = (TextualInversion("<cat>"), Perfusion("<cat>", "cat"), ZOODiP("<cat>"))
SETTINGS = [
    pytest.param(method, item.name, id=f"{type(method).__name__}.{item.name}")
    for method in METHODS
    for item in fields(method)
]
WHOLE = {int, int | None}


def hint(method: Any, name: str) -> Any:
    return get_type_hints(type(method))[name]


@pytest.mark.parametrize(("method", "name"), SETTINGS)
def test_other_kinds_are_refused(method: Any, name: str) -> None:
    kind = hint(method, name)
    wrong: list[Any] = [b"2", ["2"], {}]
    wrong += [] if kind in WHOLE else [2j] if kind is float else [2, 1.5]
    wrong += [] if kind is bool else [True, False]
    wrong += ["2", "1.5"] if kind in (*WHOLE, float, bool) else []
    wrong += [1.0, 1.5, nan, inf] if kind in WHOLE else []
    for value in wrong:
        with pytest.raises((TypeError, ValueError), match=" must be ") as caught:
            replace(method, **{name: value})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("method", "name"), SETTINGS)
def test_numbers_are_finite_and_in_their_range(method: Any, name: str) -> None:
    kind = hint(method, name)
    if kind is float:
        wrong = [nan, inf, -inf, 10**400] + ([] if name == "beta" else [-1e-9])
    else:
        wrong = [-1] if kind in WHOLE else []
    for value in wrong:
        with pytest.raises(ValueError, match=f"{type(method).__name__}: {name} must be "):
            replace(method, **{name: value})


def test_what_fits_is_taken_as_it_is() -> None:
    made = TextualInversion("<cat>", initializer_file=Path("a"), num_vectors=3, l2_to_init=1)
    assert (made.num_vectors, made.l2_to_init, made.clip_skip) == (3, 1, None)
    assert Perfusion("<cat>", "cat", beta=-2, clip_skip=0).beta == -2
    assert ZOODiP("<cat>", mu=np.float64(0.5), nu=1).mu == 0.5


def test_the_line_says_what_where_and_what_instead() -> None:
    with pytest.raises(TypeError) as caught:
        ZOODiP("<cat>", directions=1.5)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "ZOODiP: directions must be a whole number from 1 up, found 1.5 (float)"
    )
    with pytest.raises(ValueError) as refused:
        Perfusion("<cat>", "cat", clip_skip=-1)
    assert str(refused.value) == (
        "Perfusion: clip_skip must be a whole number from 0 up, or None, found -1"
    )
