"""Classifier-free guidance: closed forms, and bit-equality with the pipelines' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from guidance import CFG, cosine, guide
from guidance.cfg import cfg
from tests import tiny

SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {},
    "PNDMScheduler": {"skip_prk_steps": True},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverMultistepScheduler karras": {"use_karras_sigmas": True},
    "EulerDiscreteScheduler karras": {"use_karras_sigmas": True},
    "DPMSolverSinglestepScheduler": {},
    "HeunDiscreteScheduler": {},
    "KDPM2DiscreteScheduler": {},
    "UniPCMultistepScheduler": {},
    "LMSDiscreteScheduler": {},
    "DDPMScheduler": {},
}


def with_scheduler(pipe: Any, name: str) -> Any:
    """The pipeline with another scheduler of the same noise schedule."""
    pipe.scheduler = tiny.scheduler(name.split()[0], **SCHEDULERS[name])
    return pipe


def test_formula_and_neutral_scales() -> None:
    uncond, cond = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(cfg(uncond, cond, 3.0), -2 * uncond + 3 * cond)
    torch.testing.assert_close(cfg(uncond, cond, 1.0), cond)
    assert torch.equal(cfg(uncond, cond, 0.0), uncond)


@pytest.mark.parametrize("shape", [(2, 6, 4), (2, 4, 5, 5), (2, 4, 3, 5, 5)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_scale_per_sample_acts_per_sample(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    uncond, cond = torch.randn(2, *shape).to(dtype)
    result = cfg(uncond, cond, torch.tensor([0.0, 7.0]))
    assert result.dtype == dtype
    torch.testing.assert_close(result[0], uncond[0])
    torch.testing.assert_close(result[1], cfg(uncond[1:], cond[1:], 7.0)[0], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_bit_equal_to_native_with_every_scheduler(sd: Any, scheduler: str) -> None:
    pipe = with_scheduler(sd, scheduler)
    native = tiny.sample(pipe, scale=6.5, batch=2)
    with guide(pipe, CFG(6.5)):
        guided = tiny.sample(pipe, scale=3.0, batch=2)
    assert torch.equal(guided, native)
    assert not torch.equal(native, tiny.sample(pipe, scale=3.0, batch=2))


def test_bit_equal_to_native_in_every_family(pipe: Any) -> None:
    native = tiny.sample(pipe, scale=4.5, batch=2)
    with guide(pipe, CFG(4.5)):
        assert torch.equal(tiny.sample(pipe, scale=2.0, batch=2), native)


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_bit_equal_to_native_with_other_flow_schedulers(sd3: Any, name: str) -> None:
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    sd3.scheduler = tiny.scheduler(name, **flow if name.startswith("UniPC") else {})
    native = tiny.sample(sd3, scale=4.5)
    with guide(sd3, CFG(4.5)) as run:
        assert torch.equal(tiny.sample(sd3, scale=2.0), native)
    assert all(0 < record.sigma <= 1 for record in run.report.steps)


def test_bit_equal_to_native_for_v_prediction(sd: Any) -> None:
    sd.scheduler = tiny.scheduler("DDIMScheduler", prediction_type="v_prediction")
    native = tiny.sample(sd, scale=6.5)
    with guide(sd, CFG(6.5)):
        assert torch.equal(tiny.sample(sd, scale=2.0), native)


def test_without_scale_reads_the_pipelines(pipe: Any) -> None:
    native = tiny.sample(pipe, scale=4.5)
    with guide(pipe, CFG()) as run:
        assert torch.equal(tiny.sample(pipe, scale=4.5), native)
    assert {record.scale for record in run.report.steps} == {4.5}


def test_scale_one_is_the_plain_pipeline_and_skips_the_uncond_rows(pipe: Any) -> None:
    plain = tiny.sample(pipe, scale=1.0, batch=2)
    rows = tiny.Rows(pipe)
    with guide(pipe, CFG(1.0)) as run:
        assert torch.equal(tiny.sample(pipe, scale=5.0, batch=2), plain)
        assert torch.equal(tiny.sample(pipe, scale=1.0, batch=2), plain)
    assert rows.seen == [2] * 8
    assert run.report.nfe == 8


def test_guidance_rescale_of_the_call_is_honoured(sd: Any) -> None:
    native = tiny.sample(sd, scale=6.5, guidance_rescale=0.7)
    with guide(sd, CFG()):
        guided = tiny.sample(sd, scale=6.5, guidance_rescale=0.7)
    torch.testing.assert_close(guided, native, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("scale", [cosine(2, 9), lambda fraction: 2 + fraction])
def test_scheduled_scale_follows_the_fraction(sd: Any, scale: Callable[[float], float]) -> None:
    with guide(sd, CFG(scale)) as run:
        tiny.sample(sd, steps=4)
    expected = [scale(fraction) for fraction in (0, 0.25, 0.5, 0.75)]
    assert [record.scale for record in run.report.steps] == pytest.approx(expected)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1.0])
def test_impossible_scale_raises(scale: float) -> None:
    with pytest.raises(ValueError, match=r"CFG: scale must be a finite number"):
        CFG(scale)


@pytest.mark.parametrize("scale", ["6", True, [1.0]])
def test_scale_of_wrong_type_raises(scale: Any) -> None:
    with pytest.raises(TypeError, match=r"CFG: scale must be a finite number"):
        CFG(scale)


def test_callable_that_returns_nonsense_raises(sd: Any) -> None:
    rule = CFG(lambda fraction: float("nan"))
    with guide(sd, rule), pytest.raises(ValueError, match="scale at fraction 0"):
        tiny.sample(sd)


def test_matches_a_loop_written_from_the_equations(sd: Any) -> None:
    """DDIM (arXiv 2010.02502, eq. 12, eta 0) with eq. 6 of the guidance paper, in plain torch."""
    cond, uncond = sd.encode_prompt(tiny.PROMPT, "cpu", 1, True, tiny.NEGATIVE)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal = torch.cumprod(1 - betas, 0)
    times = [751, 501, 251, 1]
    with torch.no_grad():
        for t, after in zip(times, [501, 251, 1, 0], strict=True):
            eps_c, eps_u = (sd.unet(x, t, encoder_hidden_states=e).sample for e in (cond, uncond))
            eps = eps_u + 5.0 * (eps_c - eps_u)
            now, later = signal[t].float(), signal[after].float()
            x0 = (x - (1 - now).sqrt() * eps) / now.sqrt()
            x = later.sqrt() * x0 + (1 - later).sqrt() * eps
    sd.scheduler = tiny.scheduler(
        "DDIMScheduler", steps_offset=1, clip_sample=False, set_alpha_to_one=False
    )
    with guide(sd, CFG(5.0)):
        guided = tiny.sample(sd, scale=2.0)
    torch.testing.assert_close(guided, x, rtol=1e-4, atol=1e-4)
