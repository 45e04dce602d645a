"""Noise, targets and weights against closed forms and the schedulers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.training_utils import compute_snr

from personalize.core.targets import Noising
from tests.tiny import BETAS

LEVELS = torch.tensor([0, 1, 250, 500, 998, 999])


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (len(LEVELS), 4, 3, 5)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("scheduler", [DDPMScheduler, EulerDiscreteScheduler])
def test_diffusion(kind: str, scheduler: Any) -> None:
    reference = DDPMScheduler(**BETAS, prediction_type=kind)
    noising = Noising.of(scheduler(**BETAS, prediction_type=kind))
    x0, eps = data()
    times = noising.timesteps[LEVELS]
    assert torch.equal(times, LEVELS)
    noisy = noising.noisy(x0, eps, LEVELS)
    close(noisy, reference.add_noise(x0, eps, LEVELS))
    expected = {
        "epsilon": eps,
        "sample": x0,
        "v_prediction": reference.get_velocity(x0, eps, LEVELS),
    }
    target = noising.target(x0, eps, LEVELS)
    close(target, expected[kind])
    alpha = reference.alphas_cumprod[LEVELS].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - reference.alphas_cumprod[LEVELS]).sqrt().view(-1, 1, 1, 1)
    implied = {
        "epsilon": lambda: (noisy - sigma * target) / alpha,
        "sample": lambda: target,
        "v_prediction": lambda: alpha * noisy - sigma * target,
    }
    torch.testing.assert_close(implied[kind](), x0, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    noising = Noising.of(scheduler)
    x0, eps = data()
    s = (LEVELS + 1) / 1000
    s = shift * s / (1 + (shift - 1) * s)
    close(noising.timesteps[LEVELS], s * 1000)
    own = scheduler.scale_noise(x0, scheduler.timesteps.flip(0)[LEVELS], eps)
    s = s.view(-1, 1, 1, 1)
    noisy = noising.noisy(x0, eps, LEVELS)
    close(noisy, (1 - s) * x0 + s * eps)
    close(noisy, own)
    assert torch.equal(noising.target(x0, eps, LEVELS), eps - x0)
    close(noisy - s * noising.target(x0, eps, LEVELS), x0)


def test_dynamic_shift_is_none_in_training() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    close(Noising.of(scheduler).timesteps, torch.arange(1, 1001.0))


@pytest.mark.parametrize(
    "scheduler",
    [EulerDiscreteScheduler(**BETAS), FlowMatchEulerDiscreteScheduler(shift=2.0)],
)
def test_sampling_does_not_change_it(scheduler: Any) -> None:
    before = Noising.of(scheduler)
    scheduler.set_timesteps(7)
    after = Noising.of(scheduler)
    assert torch.equal(before.sigmas, after.sigmas)
    assert torch.equal(before.timesteps, after.timesteps)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_min_snr(kind: str, gamma: float) -> None:
    scheduler = DDPMScheduler(**BETAS, prediction_type=kind)
    snr = compute_snr(scheduler, LEVELS)
    capped = torch.minimum(snr, torch.tensor(gamma))
    expected = {"epsilon": capped / snr, "sample": capped, "v_prediction": capped / (snr + 1)}
    close(Noising.of(scheduler).weights(LEVELS, gamma), expected[kind])


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "flow"])
def test_min_snr_is_a_weight_on_x0(kind: str) -> None:
    """Whatever is predicted, an error of it counts as the error of x0 that it means."""
    flow = FlowMatchEulerDiscreteScheduler()
    noising = Noising.of(flow if kind == "flow" else DDPMScheduler(**BETAS, prediction_type=kind))
    alpha, sigma = noising.alphas[LEVELS[1:-1]].double(), noising.sigmas[LEVELS[1:-1]].double()
    error = {"epsilon": sigma / alpha, "sample": torch.ones(4)}.get(kind, sigma)
    weight = (alpha / sigma).square().clamp(max=5.0)
    close(noising.weights(LEVELS[1:-1], 5.0), (weight * error**2).float())


def test_no_signal() -> None:
    """Zero terminal SNR: the weight of eps has a limit."""
    noising = Noising.of(DDPMScheduler(**BETAS, rescale_betas_zero_snr=True))
    assert noising.alphas[999] == 0
    assert torch.equal(noising.weights(torch.tensor([999]), 5.0), torch.ones(1))
    assert torch.equal(noising.weights(LEVELS, None), torch.ones(6))


@pytest.mark.parametrize(
    ("steps", "low", "high", "expected"),
    [
        (1000, 0, 1000, (0, 1000)),
        (1000, 500, 900, (500, 900)),
        (100, 500, 900, (50, 90)),
        (10, 990, 1000, (9, 10)),
        (10, 501, 502, (5, 6)),
    ],
)
def test_band(steps: int, low: int, high: int, expected: tuple[int, int]) -> None:
    assert Noising.of(DDPMScheduler(steps, **BETAS)).band(low, high) == expected


def test_unknown_levels() -> None:
    scheduler = UniPCMultistepScheduler()
    del scheduler.alphas_cumprod
    with pytest.raises(ValueError, match="UniPCMultistepScheduler has no training noise levels"):
        Noising.of(scheduler)
