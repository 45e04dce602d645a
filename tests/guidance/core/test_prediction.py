"""Conversions between eps, x0, v and flow velocity against closed forms, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from guidance import Step
from guidance.cfg import cfg
from guidance.core.prediction import PREDICTION_TYPES

X0, EPS = torch.randn(2, 2, 4, 5, 5, dtype=torch.float64)


def step(kind: str, alpha: float = 0.8, sigma: float = 0.6, **settings: Any) -> Step:
    """A step at a known noise level; flow models get alpha = 1 - sigma."""
    if kind == "flow_prediction":
        alpha = 1 - sigma
    x = settings.pop("x", alpha * X0 + sigma * EPS)
    return Step(
        index=1,
        count=4,
        timestep=500.0,
        alpha=alpha,
        sigma=sigma,
        x=x,
        prediction_type=kind,
        evaluator=lambda branch: x,
    )


def truth(at: Step) -> dict[str, torch.Tensor]:
    """What a perfect model of each type predicts."""
    return {
        "epsilon": EPS,
        "sample": X0,
        "v_prediction": at.alpha * EPS - at.sigma * X0,
        "flow_prediction": EPS - X0,
    }


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_conversions_recover_the_truth(kind: str) -> None:
    at = step(kind)
    pred = truth(at)[kind]
    torch.testing.assert_close(at.x0(pred), X0)
    torch.testing.assert_close(at.eps(pred), EPS)
    torch.testing.assert_close(at.score(pred), -EPS / 0.6)
    torch.testing.assert_close(at.from_x0(X0), pred)
    torch.testing.assert_close(at.from_eps(EPS), pred)
    path = "flow_prediction" if kind == "flow_prediction" else "v_prediction"
    torch.testing.assert_close(at.velocity(pred), truth(at)[path])


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_guidance_commutes_with_every_conversion(kind: str) -> None:
    at = step(kind)
    uncond, cond = torch.randn(2, 2, 4, 5, 5, dtype=torch.float64)
    guided = cfg(uncond, cond, 7.5)
    for space in (at.x0, at.eps, at.velocity, at.score):
        torch.testing.assert_close(space(guided), cfg(space(uncond), space(cond), 7.5))


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_low_precision_is_converted_in_float32(kind: str) -> None:
    at = step(kind, x=torch.randn(2, 4, 5, 5).half())
    assert at.x0(at.x).dtype == torch.float32
    assert at.from_x0(at.x).dtype == torch.float32


def test_undefined_conversions_raise_and_others_do_not() -> None:
    noise, data = step("epsilon", 0.0, 1.0), step("sample", 1.0, 0.0)
    with pytest.raises(ValueError, match="x0 is undefined"):
        noise.x0(EPS)
    with pytest.raises(ValueError, match="eps is undefined"):
        data.eps(X0)
    torch.testing.assert_close(step("v_prediction", 0.0, 1.0).x0(-X0), X0)
    torch.testing.assert_close(step("flow_prediction", sigma=1.0).x0(EPS - X0), X0)


def test_fraction_and_edm_noise() -> None:
    assert step("epsilon").fraction == 0.25
    assert step("epsilon").edm_sigma == pytest.approx(0.75)
    assert step("flow_prediction", sigma=0.6).edm_sigma == pytest.approx(1.5)
    assert step("epsilon", 0.0, 1.0).edm_sigma == float("inf")
