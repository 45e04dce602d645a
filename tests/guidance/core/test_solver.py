"""The end of a sampler's step against the schedulers' own steps, and what is refused."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
import torch

from guidance.core.clock import Clock, prediction_type
from guidance.core.solver import next_noise_level
from tests import tiny

DDIM = {"clip_sample": False}
CASES: dict[str, dict[str, Any]] = {
    "DDIMScheduler": DDIM,
    "DDIMScheduler offset": DDIM | {"steps_offset": 1, "set_alpha_to_one": False},
    "DDIMScheduler trailing": DDIM | {"timestep_spacing": "trailing"},
    "DDIMScheduler linspace": DDIM | {"timestep_spacing": "linspace"},
    "DDIMScheduler v": DDIM | {"prediction_type": "v_prediction"},
    "DDIMScheduler zero snr": DDIM
    | {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
    "DDIMScheduler x0": DDIM | {"prediction_type": "sample"},
    "EulerDiscreteScheduler": {},
    "EulerDiscreteScheduler karras": {"use_karras_sigmas": True},
    "EulerDiscreteScheduler v": {"prediction_type": "v_prediction"},
    "EulerDiscreteScheduler sigma_min": {"final_sigmas_type": "sigma_min"},
    "FlowMatchEulerDiscreteScheduler": {},
    "FlowMatchEulerDiscreteScheduler shift": {"shift": 3.0},
}


def build(case: str, steps: int = 6) -> Any:
    scheduler = tiny.scheduler(case.split()[0], **CASES[case])
    scheduler.set_timesteps(steps)
    return scheduler


def prediction(
    kind: str, x0: torch.Tensor, eps: torch.Tensor, alpha: float, sigma: float
) -> torch.Tensor:
    """What a model of this type predicts for known data and noise."""
    return {
        "epsilon": eps,
        "sample": x0,
        "v_prediction": alpha * eps - sigma * x0,
        "flow_prediction": eps - x0,
    }[kind]


@pytest.mark.parametrize("case", CASES)
def test_step_of_a_perfect_model_ends_at_the_next_level(case: str) -> None:
    scheduler = build(case)
    clock = Clock(lambda: scheduler, lambda: None)
    x0, eps = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64)
    for t in scheduler.timesteps:
        tick = clock.tick(float(t))
        x = scaled = tick.alpha * x0 + tick.sigma * eps
        after, sigma = next_noise_level(scheduler, tick.timestep, tick.position)
        if case.startswith("Euler"):
            x = scaled / tick.alpha
            scheduler.scale_model_input(x, t)
        pred = prediction(prediction_type(scheduler), x0, eps, tick.alpha, tick.sigma)
        result = scheduler.step(pred, t, x).prev_sample
        expected = after * x0 + sigma * eps
        if case.startswith("Euler"):
            expected = expected / after
        torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)


def test_closed_forms() -> None:
    assert next_noise_level(build("DDIMScheduler"), 0, 5) == (1, 0)
    scheduler = build("DDIMScheduler offset")
    signal = scheduler.alphas_cumprod[0].item()
    assert next_noise_level(scheduler, 1, 5) == pytest.approx((sqrt(signal), sqrt(1 - signal)))
    assert next_noise_level(build("EulerDiscreteScheduler"), 0, 5) == (1, 0)
    flow = build("FlowMatchEulerDiscreteScheduler")
    after = flow.sigmas[3].item()
    assert next_noise_level(flow, 0, 2) == pytest.approx((1 - after, after))


@pytest.mark.parametrize(
    "name",
    [
        "DDPMScheduler",
        "PNDMScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "FlowMatchHeunDiscreteScheduler",
    ],
)
def test_other_solvers_are_named(name: str) -> None:
    scheduler = tiny.scheduler(name)
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match=f"found {name}: expected one of DDIMScheduler, Euler"):
        next_noise_level(scheduler, 500, 0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("DDIMScheduler", {"clip_sample": True}),
        ("DDIMScheduler", {"thresholding": True, "clip_sample": False}),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    ],
)
def test_settings_that_change_the_update_are_named(name: str, settings: dict[str, Any]) -> None:
    scheduler = tiny.scheduler(name, **settings)
    scheduler.set_timesteps(4)
    setting = next(iter(settings))
    with pytest.raises(ValueError, match=f"{setting}=True: .*from_config.*{setting}=False"):
        next_noise_level(scheduler, 500, 0)


def test_added_noise_is_named() -> None:
    with pytest.raises(ValueError, match=r"found eta=0\.5; set eta=0"):
        next_noise_level(build("DDIMScheduler"), 500, 0, eta=0.5)
