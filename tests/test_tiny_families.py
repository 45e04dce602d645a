"""The tiny pipelines that other tests rest on: they sample, repeat, and listen to their text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tiny_families import FAMILIES

VISIBLE = 1e-3


def changed(family: str, pipe: Any, **changes: Any) -> float:
    """Largest difference that changed arguments make to two samples."""
    call = FAMILIES[family].call
    return float((call(pipe, batch=2, **changes) - call(pipe, batch=2)).abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_and_repeats(family: str) -> None:
    build, call = FAMILIES[family], FAMILIES[family].call
    pipe = build()
    first = call(pipe, batch=2)
    assert first.shape[0] == 2
    assert first.isfinite().all()
    assert not torch.equal(first[0], first[1])
    assert torch.equal(call(pipe, batch=2), first)
    assert torch.equal(call(build(), batch=2), first)
    assert not torch.equal(call(pipe, batch=2, steps=3), first)


@pytest.mark.parametrize("family", [name for name, made in FAMILIES.items() if made.prompt])
def test_prompts_differ(family: str) -> None:
    pipe = FAMILIES[family]()
    assert changed(family, pipe, prompt=["blue fox", "red owl"]) > VISIBLE


@pytest.mark.parametrize("family", [name for name, made in FAMILIES.items() if made.scale])
def test_guidance_matters(family: str) -> None:
    made = FAMILIES[family]
    pipe = made()
    assert changed(family, pipe, scale=made.off) > VISIBLE
    assert changed(family, pipe, scale=4.0) > VISIBLE
    if made.negative:
        assert changed(family, pipe, negative_prompt=["wet cat", "grey dog"]) > VISIBLE
