"""What holds for every registered rule, on every family that it suits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from guidance import METHODS, guide
from tests import tiny
from tests.guidance.rules import EXAMPLES, Example
from tests.tiny import close

CASES = [(example, family) for example in EXAMPLES for family in example.families]
every_rule = pytest.mark.parametrize(
    ("example", "family"), CASES, ids=[f"{family}-{example}" for example, family in CASES]
)


def build(family: str) -> Any:
    """The pipeline of a family, with a scheduler that adds nothing to its update."""
    pipe = tiny.FAMILIES[family]()
    if isinstance(pipe.scheduler, DDIMScheduler):
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    return pipe


def test_every_method_has_an_example() -> None:
    shown = {name for example in EXAMPLES for name in repr(example.rule).replace("(", " ").split()}
    assert {method.name for method in METHODS} - shown == {"LinearAG"}  # needs a fitted file


@every_rule
def test_acts_and_is_neutral_where_it_should_be(example: Example, family: str) -> None:
    pipe = build(family)
    plain, usual = tiny.sample(pipe, scale=1.0), tiny.sample(pipe)
    with guide(pipe, example.rule):
        assert not torch.allclose(tiny.sample(pipe), plain, atol=1e-3)
    if example.neutral is not None:
        with guide(pipe, example.neutral) as run:
            assert torch.equal(tiny.sample(pipe), plain)
        assert run.report.nfe == 4
    assert torch.equal(tiny.sample(pipe), usual)


@every_rule
def test_batch_is_the_image_alone_and_joint_is_sequential(example: Example, family: str) -> None:
    pipe = build(family)
    with guide(pipe, example.rule) as run:
        joint = tiny.sample(pipe, batch=2)
        close(tiny.sample(pipe, batch=1)[0], joint[0])
    with guide(pipe, example.rule, batching="sequential") as other:
        close(tiny.sample(pipe, batch=2), joint)
    assert run.report.nfe == 2 * other.report.nfe


@every_rule
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_stays_finite(example: Example, family: str, dtype: torch.dtype) -> None:
    pipe = build(family).to(dtype=dtype)
    native = tiny.sample(pipe)
    with guide(pipe, example.rule):
        guided = tiny.sample(pipe)
    assert guided.dtype == native.dtype
    assert guided.isfinite().all()
