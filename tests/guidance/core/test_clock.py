"""Counting of calls, and noise levels against the schedulers' own noising."""

from __future__ import annotations

from math import atan, sqrt
from typing import Any

import diffusers
import pytest
import torch

from guidance.core.clock import Clock, noise_level, prediction_type
from tests import tiny

CASES: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {},
    "DDPMScheduler": {},
    "PNDMScheduler": {"skip_prk_steps": True},
    "EulerDiscreteScheduler": {},
    "EulerDiscreteScheduler karras": {"use_karras_sigmas": True},
    "EulerAncestralDiscreteScheduler": {},
    "HeunDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverMultistepScheduler karras": {"use_karras_sigmas": True},
    "DPMSolverMultistepScheduler flow": {
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
    },
    "UniPCMultistepScheduler": {},
    "FlowMatchEulerDiscreteScheduler": {},
    "FlowMatchEulerDiscreteScheduler shift": {"shift": 3.0},
}


def build(case: str, steps: int = 6) -> Any:
    scheduler = tiny.scheduler(case.split()[0], **CASES.get(case, {}))
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("case", CASES)
def test_model_input_is_alpha_x0_plus_sigma_eps(case: str) -> None:
    x0, eps = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64)
    size = len(build(case).timesteps)
    for position in range(size):
        scheduler = build(case)
        t = scheduler.timesteps[position]
        scheduler.set_begin_index(position) if hasattr(scheduler, "set_begin_index") else None
        if hasattr(scheduler, "add_noise"):
            x = scheduler.add_noise(x0, eps, t[None])
        else:
            x = scheduler.scale_noise(x0, t[None], eps)
        if hasattr(scheduler, "scale_model_input"):
            x = scheduler.scale_model_input(x, t)
        alpha, sigma = noise_level(scheduler, float(t), position)
        torch.testing.assert_close(alpha * x0 + sigma * eps, x, rtol=1e-4, atol=1e-4)


def test_closed_forms() -> None:
    ddim = build("DDIMScheduler")
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = torch.cumprod(1 - betas, 0)[600].item()
    assert noise_level(ddim, 600, 0) == pytest.approx((sqrt(signal), sqrt(1 - signal)))
    euler = build("EulerDiscreteScheduler")
    noise = euler.sigmas[2].item()
    alpha, sigma = noise_level(euler, 0.0, 2)
    assert alpha == pytest.approx(1 / sqrt(1 + noise**2))
    assert sigma / alpha == pytest.approx(noise)
    flow = build("FlowMatchEulerDiscreteScheduler")
    t = flow.timesteps[3].item()
    assert noise_level(flow, t, 3) == pytest.approx((1 - t / 1000, t / 1000))


def test_flows_in_other_units() -> None:
    """Cosmos' scheduler holds noise over signal, Sana-Sprint's its angle."""
    cosmos: Any = diffusers.FlowMatchEulerDiscreteScheduler()
    cosmos.set_timesteps(sigmas=[80.0, 3.0, 0.25])
    assert noise_level(cosmos, 3000.0, 1) == pytest.approx((0.25, 0.75))
    assert noise_level(cosmos, 250.0, 2) == pytest.approx((0.8, 0.2))
    sprint: Any = diffusers.SCMScheduler()
    sprint.set_timesteps(2, max_timesteps=atan(3.0), intermediate_timesteps=atan(0.25))
    assert prediction_type(sprint) == "flow_prediction"
    assert noise_level(sprint, atan(3.0), 0) == pytest.approx((0.25, 0.75))
    assert noise_level(sprint, atan(0.25), 1) == pytest.approx((0.8, 0.2))


def test_continuous_cosine_schedule() -> None:
    scheduler: Any = diffusers.DDPMWuerstchenScheduler()
    x0, eps = torch.randn(2, 1, 4, 8, 8)
    for t in (0.9, 0.5, 0.1):
        alpha, sigma = noise_level(scheduler, t, 0)
        noisy = scheduler.add_noise(x0, eps, torch.tensor([t]))
        torch.testing.assert_close(alpha * x0 + sigma * eps, noisy)


@pytest.mark.parametrize("name", ["KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"])
def test_midpoint_solver_uses_the_noise_of_the_midpoint(name: str) -> None:
    scheduler = build(name, steps=4)
    x = torch.randn(1, 4, 4, 4) * scheduler.init_noise_sigma
    for position, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, t)
        alpha, _ = noise_level(scheduler, float(t), position)
        torch.testing.assert_close(scaled, alpha * x)
        x = scheduler.step(torch.randn_like(x), t, x).prev_sample


def test_preconditioned_input_is_variance_preserving_for_data_of_unit_spread() -> None:
    for spread, known in ((1.0, True), (0.5, False)):
        scheduler: Any = diffusers.EDMEulerScheduler(sigma_data=spread)
        scheduler.set_timesteps(3)
        alpha, sigma = noise_level(scheduler, float(scheduler.timesteps[1]), 1)
        assert (alpha == alpha and sigma == sigma) is known
        if known:
            x = torch.randn(1, 4, 4, 4) * scheduler.sigmas[1]
            torch.testing.assert_close(
                scheduler.precondition_inputs(x, scheduler.sigmas[1]), alpha * x
            )


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("DDIMScheduler", "epsilon"),
        ("FlowMatchEulerDiscreteScheduler", "flow_prediction"),
        ("DPMSolverMultistepScheduler flow", "flow_prediction"),
    ],
)
def test_prediction_type(case: str, kind: str) -> None:
    assert prediction_type(build(case)) == kind


@pytest.mark.parametrize("case", [*CASES, "KDPM2DiscreteScheduler"])
def test_level_elsewhere_is_that_of_the_scheduler_there(case: str) -> None:
    """A share of its levels from the clean end, at every stage of the run; none without signal."""
    scheduler, reference = build(case, 8), build(case, 8)
    clock = Clock(lambda: scheduler, lambda: None)
    x, count = torch.zeros(1, 4, 4, 4), len(scheduler.timesteps)
    for position, t in enumerate(scheduler.timesteps):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        clock.tick(float(t))
        for share, expected in ((0.8, count - 1 - int(0.8 * count)), (0.0, count - 1)):
            there = clock.at(share)
            assert there.timestep == float(scheduler.timesteps[expected])
            # Its first stage is at the even places.
            if not case.startswith("KDPM2") or expected % 2 == 0:
                level = noise_level(reference, there.timestep, expected)
                assert (there.alpha, there.sigma) == pytest.approx(level, abs=1e-4)
        following = position + 1
        if following == count:
            assert clock.after() == (1.0, 0.0)
        elif not case.startswith("KDPM2") or following % 2 == 0:
            level = noise_level(reference, float(scheduler.timesteps[following]), following)
            assert clock.after() == pytest.approx(level, abs=1e-4)
        x = scheduler.step(x, t, x).prev_sample
    assert clock.at(1.0).alpha >= 1e-3


def test_level_without_signal_is_never_one_elsewhere() -> None:
    flow = build("FlowMatchEulerDiscreteScheduler", 4)
    clock = Clock(lambda: flow, lambda: None)
    clock.tick(float(flow.timesteps[0]))
    assert clock.at(1.0).timestep == float(flow.timesteps[1])
    flow.set_timesteps(1)
    clock.tick(float(flow.timesteps[0]))
    with pytest.raises(ValueError, match="no noise level of the 1 steps has any signal"):
        clock.at(0.5)


def test_counts_calls_although_timesteps_repeat() -> None:
    scheduler = build("HeunDiscreteScheduler", steps=3)
    clock = Clock(lambda: scheduler, lambda: None)
    ticks = [clock.tick(float(t)) for t in scheduler.timesteps]
    assert [tick.index for tick in ticks] == list(range(5))
    assert {(tick.run, tick.count) for tick in ticks} == {(0, 5)}
    assert [tick.timestep for tick in ticks] == scheduler.timesteps.tolist()


def test_new_timesteps_start_a_new_run_also_halfway() -> None:
    scheduler = build("DDIMScheduler")
    clock = Clock(lambda: scheduler, lambda: None)
    positions = []
    for _ in range(2):
        scheduler.set_timesteps(4)
        positions += [clock.tick(float(t)) for t in scheduler.timesteps[:2]]
    assert [(tick.run, tick.index) for tick in positions] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_finished_run_is_followed_by_another_on_the_same_timesteps() -> None:
    scheduler = build("DDIMScheduler", steps=2)
    clock = Clock(lambda: scheduler, lambda: None)
    ticks = [clock.tick(float(t)) for _ in range(2) for t in scheduler.timesteps]
    assert [(tick.run, tick.index) for tick in ticks] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_late_start_counts_what_remains() -> None:
    scheduler = build("DDIMScheduler", steps=10)
    clock = Clock(lambda: scheduler, lambda: None)
    assert clock.tick(float(scheduler.timesteps[6])).count == 4


def test_time_rounded_to_bfloat16_keeps_its_noise_level() -> None:
    scheduler = build("FlowMatchEulerDiscreteScheduler shift")
    clock = Clock(lambda: scheduler, lambda: None)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas.tolist(), strict=False):
        assert clock.tick(float(t.to(torch.bfloat16))).sigma == pytest.approx(sigma)


def test_a_start_inside_repeated_timesteps_follows_the_scheduler() -> None:
    scheduler = build("HeunDiscreteScheduler")
    scheduler.set_begin_index(2)
    clock = Clock(lambda: scheduler, lambda: None)
    ticks = [clock.tick(float(t)) for t in scheduler.timesteps[2:]]
    assert [tick.index for tick in ticks] == list(range(9))
    assert {(tick.run, tick.count) for tick in ticks} == {(0, 9)}


def test_a_run_ends_where_the_pipeline_said() -> None:
    scheduler = build("DDIMScheduler", steps=10)
    clock = Clock(lambda: scheduler, lambda: 3)
    ticks = [clock.tick(float(t)) for t in [*scheduler.timesteps[:3], scheduler.timesteps[0]]]
    assert [(tick.run, tick.index, tick.count) for tick in ticks] == [
        (0, 0, 3),
        (0, 1, 3),
        (0, 2, 3),
        (1, 0, 3),
    ]
