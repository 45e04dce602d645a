"""Which branches are evaluated, how often, and in which batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from guidance import CFG, Rescale, guide
from tests import tiny
from tests.guidance.rules import Greedy, Late
from tests.tiny import close


def test_joint_equals_sequential(pipe: Any) -> None:
    rule = CFG(4.0) + Rescale(0.7)
    with guide(pipe, rule):
        joint = tiny.sample(pipe, batch=2)
    rows = tiny.Rows(pipe)
    with guide(pipe, rule, batching="sequential") as run:
        close(tiny.sample(pipe, batch=2), joint)
    assert rows.seen == [2] * 8
    assert run.report.nfe == 8


def test_interval_spends_nothing_outside_and_is_cfg_inside(pipe: Any) -> None:
    native = tiny.sample(pipe, scale=5.0, batch=2, steps=5)
    rows = tiny.Rows(pipe)
    with guide(pipe, CFG(5.0).between(0.2, 0.6)) as run:
        limited = tiny.sample(pipe, batch=2, steps=5)
    assert rows.seen == [2, 4, 4, 2, 2]
    assert [r.evaluations for r in run.report.steps] == [1, 2, 2, 1, 1]
    assert not torch.allclose(limited, native, atol=1e-3)
    with guide(pipe, CFG(5.0).between(0, 1)):
        assert torch.equal(tiny.sample(pipe, batch=2, steps=5), native)


def test_branch_that_was_not_announced_is_evaluated_on_demand(pipe: Any) -> None:
    native = tiny.sample(pipe, scale=5.0)
    with guide(pipe, Late()) as run:
        close(tiny.sample(pipe, scale=2.0), native)
    assert run.report.nfe == 8


def test_unknown_branch_is_named(sd: Any) -> None:
    with guide(sd, Greedy()), pytest.raises(ValueError, match="'third'"):
        tiny.sample(sd)


@pytest.mark.parametrize("return_dict", [True, False])
@pytest.mark.parametrize("positional", [True, False])
def test_own_loop_with_a_bare_denoiser(sd: Any, return_dict: bool, positional: bool) -> None:
    scheduler, text = sd.scheduler, torch.randn(2, 5, tiny.WIDTH)
    scheduler.set_timesteps(3)
    x = torch.randn(1, 4, 8, 8)
    rows, t = torch.cat([x, x]), scheduler.timesteps[0]

    def call() -> torch.Tensor:
        if positional:
            return sd.unet(rows, t, text, return_dict=return_dict)[0]
        settings = {"sample": rows, "timestep": t, "encoder_hidden_states": text}
        return sd.unet(**settings, return_dict=return_dict)[0]

    with torch.no_grad():
        uncond, cond = call().chunk(2)
        with guide(sd.unet, CFG(4.0), scheduler=scheduler) as run:
            guided = call()
        with guide(sd.unet, CFG(1.0), scheduler=scheduler):
            close(call(), torch.cat([cond, cond]))
    assert torch.equal(guided, torch.cat([uncond + 4.0 * (cond - uncond)] * 2))
    assert run.report.steps[0].index == 0


def test_interval_in_sigma_is_open_below_and_closed_above(sd: Any) -> None:
    with guide(sd, CFG(5.0)) as run:
        tiny.sample(sd, steps=5)
    noise = [record.edm_sigma for record in run.report.steps]
    with guide(sd, CFG(5.0).between(sigma=(noise[3], noise[1]))) as run:
        tiny.sample(sd, steps=5)
    assert [r.evaluations for r in run.report.steps] == [1, 2, 2, 1, 1]


def test_fractions_are_of_the_calls_that_the_pipeline_makes(sdxl: Any) -> None:
    with guide(sdxl, CFG(5.0).between(0, 0.5)) as run:
        tiny.sample(sdxl, steps=8, denoising_end=0.5)
    assert [record.evaluations for record in run.report.steps] == [2, 2, 1, 1]
