"""Composition, limits, repr and JSON of rules."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import guidance
from guidance import (
    APG,
    CFG,
    COND,
    UNCOND,
    CFGPlusPlus,
    CFGZeroStar,
    Chain,
    Correction,
    Direction,
    DynamicThreshold,
    Rescale,
    Rule,
    Step,
    cosine,
    guide,
    linear,
    piecewise,
    table,
)
from guidance.cfg import cfg
from guidance.core.config import Part
from guidance.rescale import rescale
from tests import tiny
from tests.guidance.rules import EXAMPLES

RULES = [
    CFG(),
    CFG(6),
    CFG(cosine(2, 9)),
    CFG(piecewise([(0, 2), (0.5, 9)])),
    CFG(table([1, 2, 3])).between(0.1, 0.9),
    CFG(5).between(0.2, 0.8).between(sigma=(0.3, 5)),
    Rescale(),
    Rescale(0.5),
    CFG(6) + Rescale(0.5).between(0.5, 1),
    (CFG(6) + Rescale(0.5)).between(0, 0.5),
    APG(),
    APG(cosine(4, 12), eta=0.5, norm_threshold=0, momentum=-0.75),
    CFGZeroStar(linear(3, 6), zero_steps=2).between(0, 0.5),
    CFGPlusPlus(table([0.4, 0.8])),
    DynamicThreshold(0.99, floor=2),
    *(example.rule for example in EXAMPLES),
]

PREDICTIONS = dict(zip((COND, UNCOND), torch.randn(2, 2, 4, 3, 3), strict=True))


def at(index: int = 0, count: int = 10, alpha: float = 0.6, sigma: float = 0.8) -> Step:
    return Step(
        index=index,
        count=count,
        timestep=1.0,
        alpha=alpha,
        sigma=sigma,
        x=torch.zeros(2, 4, 3, 3),
        prediction_type="epsilon",
        evaluator=PREDICTIONS.__getitem__,
    )


@dataclass(frozen=True, repr=False)
class Push(Direction):
    """Moves every value by a constant."""

    by: float = 1.0

    def guide(self, step: Step) -> torch.Tensor:
        return step.evaluate(COND) + self.by


@dataclass(frozen=True, repr=False)
class Add(Correction):
    """Adds a constant."""

    value: float = 1.0

    def correct(self, step: Step, guided: torch.Tensor) -> torch.Tensor:
        return guided + self.value


class Double(Correction):
    """Doubles the prediction."""

    def correct(self, step: Step, guided: torch.Tensor) -> torch.Tensor:
        return 2 * guided


def test_chain_of_one_direction_is_bit_equal_to_it() -> None:
    expected = cfg(PREDICTIONS[UNCOND], PREDICTIONS[COND], 6.5)
    assert torch.equal((CFG(6.5) + Rescale(0.0)).predict(at()), expected)
    assert torch.equal(Chain((CFG(6.5),)).predict(at()), expected)


def test_directions_are_summed_around_cond() -> None:
    cond, uncond = PREDICTIONS[COND], PREDICTIONS[UNCOND]
    expected = cfg(uncond, cond, 3.0) + 0.5
    torch.testing.assert_close((CFG(3.0) + Push(0.5)).predict(at()), expected)
    torch.testing.assert_close((Push(0.5) + CFG(3.0)).predict(at()), expected)


def test_corrections_follow_directions_in_the_order_written() -> None:
    cond = PREDICTIONS[COND]
    torch.testing.assert_close((Push(1.0) + Add(3.0) + Double()).predict(at()), 2 * (cond + 4))
    torch.testing.assert_close((Double() + Add(3.0) + Push(1.0)).predict(at()), 2 * cond + 5)
    guided = cfg(PREDICTIONS[UNCOND], cond, 7.0)
    torch.testing.assert_close((Rescale(0.7) + CFG(7.0)).predict(at()), rescale(guided, cond, 0.7))


def test_two_owners_of_the_uncond_direction_raise() -> None:
    for rule in (CFG(3), APG(3), CFGZeroStar(3), CFGPlusPlus()):
        with pytest.raises(ValueError, match="at most one rule may own the uncond direction"):
            CFG(5) + Rescale() + rule


def test_chain_of_something_else_raises() -> None:
    with pytest.raises(TypeError, match="found 'CFG'"):
        Chain((CFG(5), "CFG"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one rule"):
        Chain(())
    with pytest.raises(TypeError):
        CFG(5) + 3  # type: ignore[operator]


def test_addition_is_associative() -> None:
    a, b, c = CFG(5), Rescale(0.5), Add(1.0)
    assert (a + b) + c == a + (b + c) == Chain((a, b, c))


def test_fraction_interval_is_half_open() -> None:
    rule = CFG(5).between(0.2, 0.8)
    assert [rule.active(at(index)) for index in range(10)] == [2 <= i < 8 for i in range(10)]
    assert not any(CFG(5).between(0.5, 0.5).active(at(index)) for index in range(10))


def test_sigma_interval_is_in_edm_noise_and_closed_above() -> None:
    assert CFG(5).between(sigma=(1.0, 0.8 / 0.6)).active(at())
    assert not CFG(5).between(sigma=(0.8 / 0.6, 5.0)).active(at())
    assert not CFG(5).between(sigma=(0.0, 1e9)).active(at(alpha=0.0, sigma=1.0))


def test_repeated_limits_must_all_hold() -> None:
    rule = CFG(5).between(0.0, 0.5).between(sigma=(1.0, 2.0))
    assert rule.active(at(4))
    assert not rule.active(at(5))
    assert not rule.active(at(4, alpha=0.9))


def test_limits_leave_the_original_rule_alone() -> None:
    rule = CFG(5)
    limited = rule.between(0, 0.1)
    assert rule.active(at(9))
    assert not limited.active(at(9))
    assert rule != limited


def test_limit_on_a_chain_holds_for_all_of_it() -> None:
    rule = (CFG(5) + Rescale(0.7)).between(0, 0.5)
    assert torch.equal(rule.predict(at(5)), PREDICTIONS[COND])
    assert list(rule.needs(at(5))) == []
    assert rule.active_names(at(5)) == ()
    assert rule.active_names(at(4)) == ("CFG", "Rescale")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"start": 0.8, "stop": 0.2}, r"fraction must rise, found \(0.8, 0.2\)"),
        ({"start": -0.1, "stop": 0.2}, "fraction must be a finite number from 0 to 1"),
        ({"start": 0.0, "stop": 1.5}, "fraction must be a finite number from 0 to 1"),
        ({"sigma": (5.0, 0.3)}, r"sigma must rise, found \(5, 0.3\)"),
        ({"sigma": (0.3, float("inf"))}, "sigma must be a finite number from 0 up"),
        ({"sigma": (0.3,)}, "pair"),
        ({"start": 0.2}, "expected two fractions or sigma"),
        ({}, "expected two fractions or sigma"),
        ({"start": 0.2, "stop": 0.8, "sigma": (0.3, 5)}, "expected two fractions or sigma"),
    ],
)
def test_impossible_limits_raise(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CFG(5).between(**args)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_repr_rebuilds_the_rule(rule: Rule) -> None:
    assert eval(repr(rule), {**vars(guidance), **Part.known}) == rule


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_json_rebuilds_the_rule(rule: Rule) -> None:
    assert Rule.from_config(json.loads(json.dumps(rule.to_config()))) == rule


def test_function_has_no_json_form() -> None:
    with pytest.raises(ValueError, match="CFG: scale has no JSON form"):
        CFG(lambda fraction: 5.0).to_config()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rule": "CFGG", "scale": 5}, "rule must be one of .*CFG.*, found 'CFGG'"),
        ({"scale": 5}, "found None"),
        ({"rule": "CFG", "scal": 5}, "config of CFG: .*scal"),
        ({"rule": "CFG", "scale": {"schedule": "sine"}}, "schedule must be one of .*found 'sine'"),
        ({"rule": "CFG", "scale": -2}, "scale must be a finite number from 0 up"),
        ({"rule": "CFG", "between": [{"time": [0, 1]}]}, "config of CFG"),
    ],
)
def test_bad_config_raises(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rule.from_config(config)


def test_neutral_direction_costs_nothing_on_a_pipeline(sd: Any) -> None:
    plain = tiny.sample(sd, scale=1.0)
    with guide(sd, Push(0.0)) as run:
        assert torch.equal(tiny.sample(sd, scale=5.0), plain)
    assert run.report.nfe == 4
