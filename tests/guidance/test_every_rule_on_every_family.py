"""Every rule on every denoiser family that it suits: it acts, and batching changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from guidance import (
    APG,
    CADS,
    CFG,
    PAG,
    SEG,
    AdaptiveGuidance,
    AutoGuidance,
    CFGPlusPlus,
    CFGZeroStar,
    DynamicThreshold,
    PerpNeg,
    Rescale,
    Rule,
    SkipLayers,
    SoftPAG,
    guide,
    inspect,
)
from guidance.core.solver import FIRST_ORDER
from tests import tiny
from tests.tiny_families import FAMILIES

GUIDED = [name for name, family in FAMILIES.items() if family.scale not in (None, "guider")]
PROMPTED = [name for name in GUIDED if FAMILIES[name].prompt]
ROWWISE = ("mochi",)  # computes attention image by image, so that only row mode finds its rows
UNCOND = (
    CFG(3.0),
    CFG(3.0) + Rescale(0.7),
    APG(3.0, norm_threshold=5.0),
    CFGZeroStar(3.0, zero_steps=0),
    CFGPlusPlus(0.6),
    CFG(3.0) + DynamicThreshold(0.9, floor=0.5),
    AdaptiveGuidance(3.0, -1.0, min_steps=2),
)
PERTURBED = (
    SoftPAG(2.0, strength=0.5, joint_mode="row"),
    PAG(2.0),
    SEG(2.0),
    SkipLayers(2.0),
)


def sample(name: str, pipe: Any) -> torch.Tensor:
    return FAMILIES[name].call(pipe, scale=3.0, batch=2, steps=2)


def check(name: str, rule: Rule) -> None:
    """The rule changes the picture, stays finite, and is the same in one batch or several."""
    pipe = FAMILIES[name]()
    if isinstance(rule, CFGPlusPlus) and type(pipe.scheduler).__name__ not in FIRST_ORDER:
        with guide(pipe, rule), pytest.raises(ValueError, match="first order scheduler"):
            sample(name, pipe)
        return
    with guide(pipe, CFG(1.0)):
        plain = sample(name, pipe)
    with guide(pipe, rule) as run:
        joint = sample(name, pipe)
    assert joint.isfinite().all()
    assert (joint - plain).abs().max() > 1e-5
    with guide(pipe, rule, batching="sequential") as other:
        tiny.close(sample(name, pipe), joint)
    assert other.report.nfe == run.report.nfe > len(run.report.steps)


@pytest.mark.parametrize("name", GUIDED)
@pytest.mark.parametrize("rule", UNCOND, ids=repr)
def test_rules_that_need_uncond(name: str, rule: Rule) -> None:
    check(name, rule)


@pytest.mark.parametrize("name", PROMPTED)
def test_perp_neg(name: str) -> None:
    check(name, PerpNeg(("a grey bell",), 2.0, 3.0))


@pytest.mark.parametrize("name", PROMPTED)
def test_cads(name: str) -> None:
    pipe = FAMILIES[name]()
    try:
        guide(pipe, CADS())
    except ValueError as error:
        assert "prompts in one tensor" in str(error)
    else:
        check(name, CFG(3.0) + CADS())


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("rule", PERTURBED, ids=repr)
def test_perturbations(name: str, rule: Rule) -> None:
    facts = inspect(FAMILIES[name]())
    if not (facts.skipped if isinstance(rule, SkipLayers) else facts.softened):
        with pytest.raises(ValueError, match="no self-attention that can be perturbed"):
            guide(FAMILIES[name](), rule)
        return
    if name in ROWWISE and isinstance(rule, PAG | SEG):
        pytest.skip("the rows of a batch cannot be told apart in it")
    check(name, rule)


@pytest.mark.parametrize("name", FAMILIES)
def test_auto_guidance(name: str) -> None:
    block = inspect(FAMILIES[name]()).skipped
    if not block:
        pytest.skip("no block of it can be skipped")
    check(name, AutoGuidance(2.0, block))
