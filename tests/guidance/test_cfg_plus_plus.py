"""CFG++: the identity with CFG, hand-written CFG++ samplers, and schedulers that do not fit."""

from __future__ import annotations

from itertools import pairwise
from math import cos, sin
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from guidance import CFG, CFGPlusPlus, guide, linear
from guidance.cfg import cfg
from guidance.cfg_plus_plus import equivalent_scale
from tests import tiny
from tests.tiny import close

LEVELS = [
    (0.3, 0.954, 0.5, 0.866),
    (0.2, 0.8, 0.35, 0.65),
    (0.0, 1.0, 0.1, 0.9),
    (0.995, 0.0998, 1.0, 0.0),
]


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_ddim_step_at_the_equivalent_scale_is_the_step_of_the_paper(
    levels: tuple[float, float, float, float], lam: float
) -> None:
    alpha, sigma, after, later = levels
    alpha = max(alpha, 1e-6)
    x, uncond, cond = torch.randn(3, 2, 4, 3, 3, dtype=torch.float64)
    x0 = (x - sigma * (uncond + lam * (cond - uncond))) / alpha
    theirs = after * x0 + later * uncond
    eps = cfg(uncond, cond, equivalent_scale(lam, alpha, sigma, after, later))
    ours = after * (x - sigma * eps) / alpha + later * eps
    torch.testing.assert_close(ours, theirs)


def test_closed_forms() -> None:
    assert equivalent_scale(0.6, 0.8, 0.6, 1.0, 0.0) == pytest.approx(0.6)
    assert equivalent_scale(0.6, 0.0, 1.0, 0.1, 0.9) == pytest.approx(0.6)
    q, p = 1.3, 1.2
    expected = 0.6 * cos(p) * sin(q) / sin(q - p)
    assert equivalent_scale(0.6, cos(q), sin(q), cos(p), sin(p)) == pytest.approx(expected)
    coarse, fine = (
        equivalent_scale(0.6, cos(q), sin(q), cos(q - h), sin(q - h)) for h in (0.2, 0.1)
    )
    assert fine > coarse > 0.6


def branches(pipe: Any) -> Any:
    """Both noise predictions of a UNet at ``(x, t)``."""
    cond, uncond = pipe.encode_prompt(tiny.PROMPT, "cpu", 1, True, tiny.NEGATIVE)
    return lambda x, t: [
        pipe.unet(x, t, encoder_hidden_states=text).sample for text in (uncond, cond)
    ]


@pytest.mark.parametrize("to_one", [True, False])
def test_matches_a_ddim_sampler_written_from_the_paper(sd: Any, to_one: bool) -> None:
    noise, model = torch.randn(1, 4, 8, 8), branches(sd)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal = torch.cumprod(1 - betas, 0).float()
    x = noise
    with torch.no_grad():
        for t, after in ((751, 501), (501, 251), (251, 1), (1, None)):
            eps_u, eps_c = model(x, t)
            now = signal[t]
            later = signal[after or 0] if after or not to_one else torch.tensor(1.0)
            x0 = (x - (1 - now).sqrt() * (eps_u + 0.6 * (eps_c - eps_u))) / now.sqrt()
            x = later.sqrt() * x0 + (1 - later).sqrt() * eps_u
    sd.scheduler = DDIMScheduler.from_config(sd.scheduler.config, set_alpha_to_one=to_one)
    with guide(sd, CFGPlusPlus(0.6)) as run:
        close(tiny.sample(sd, latents=noise), x)
    scales = [record.scale for record in run.report.steps]
    assert all(scale > 0.6 for scale in scales[:3])
    assert (scales[3] == pytest.approx(0.6)) == to_one
    assert [record.extras["lambda"] for record in run.report.steps] == [0.6] * 4


@pytest.mark.parametrize("karras", [True, False])
def test_matches_an_euler_sampler_written_from_the_paper(sd: Any, karras: bool) -> None:
    sd.scheduler = tiny.scheduler("EulerDiscreteScheduler", use_karras_sigmas=karras)
    noise, model = torch.randn(1, 4, 8, 8), branches(sd)
    sd.scheduler.set_timesteps(4)
    sigmas = sd.scheduler.sigmas.tolist()
    x = noise * sd.scheduler.init_noise_sigma
    with torch.no_grad():
        for index, t in enumerate(sd.scheduler.timesteps):
            now, later = sigmas[index : index + 2]
            eps_u, eps_c = model(x / (now**2 + 1) ** 0.5, t)
            x0 = x - now * (eps_u + 0.6 * (eps_c - eps_u))
            x = x0 + later * eps_u
    with guide(sd, CFGPlusPlus(0.6)):
        close(tiny.sample(sd, latents=noise), x)


def test_matches_a_flow_sampler_written_from_the_paper(sd3: Any) -> None:
    embeds = sd3.encode_prompt(tiny.PROMPT, None, None, negative_prompt=tiny.NEGATIVE)
    x = noise = torch.randn(1, 4, 8, 8)
    sd3.scheduler.set_timesteps(4)
    sigmas = sd3.scheduler.sigmas.tolist()
    with torch.no_grad():
        for now, later in pairwise(sigmas):
            time = torch.tensor([1000 * now])
            cond, uncond = (
                sd3.transformer(x, text, pooled, time).sample
                for text, pooled in ((embeds[0], embeds[2]), (embeds[1], embeds[3]))
            )
            x0 = x - now * (uncond + 0.6 * (cond - uncond))
            x = (1 - later) * x0 + later * (x + (1 - now) * uncond)
    with guide(sd3, CFGPlusPlus(0.6)) as run:
        close(tiny.sample(sd3, latents=noise), x)
    assert run.report.steps[0].scale == pytest.approx(0.6)
    assert run.report.steps[-1].scale == pytest.approx(0.6)


def test_equal_predictions_give_the_plain_sampler(sd: Any) -> None:
    plain = tiny.sample(sd, scale=1.0)
    with guide(sd, CFGPlusPlus(0.6)):
        close(tiny.sample(sd, negative_prompt=[tiny.PROMPT]), plain)


def test_lambda_zero_is_the_unconditional_pipeline(sd: Any) -> None:
    with guide(sd, CFG(0.0)):
        uncond = tiny.sample(sd)
    with guide(sd, CFGPlusPlus(0.0)):
        assert torch.equal(tiny.sample(sd), uncond)


def test_img2img_and_schedules_follow_the_run(sd: Any) -> None:
    img2img = tiny.relative("StableDiffusionImg2ImgPipeline", sd)
    with guide(img2img, CFGPlusPlus(linear(0.2, 1.0))) as run:
        tiny.sample(img2img, steps=8, image=torch.rand(1, 3, 16, 16), strength=0.5)
    lambdas = [record.extras["lambda"] for record in run.report.steps]
    assert lambdas == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert run.report.steps[-1].scale == pytest.approx(0.8)


@pytest.mark.parametrize(
    "name", ["DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler", "DDPMScheduler"]
)
def test_other_schedulers_raise_before_any_work(sd: Any, name: str) -> None:
    sd.scheduler = tiny.scheduler(name)
    rows = tiny.Rows(sd)
    with guide(sd, CFGPlusPlus()), pytest.raises(ValueError, match=f"found {name}"):
        tiny.sample(sd)
    assert rows.seen == []


def test_noise_added_by_the_pipeline_raises(sd: Any) -> None:
    with guide(sd, CFGPlusPlus()), pytest.raises(ValueError, match=r"found eta=0\.5"):
        tiny.sample(sd, eta=0.5)


def test_noise_that_does_not_fall_raises(sd: Any) -> None:
    sd.scheduler = tiny.scheduler("EulerDiscreteScheduler")
    with guide(sd, CFGPlusPlus()), pytest.raises(ValueError, match="noise must fall"):
        tiny.sample(sd, sigmas=[2.0, 2.0, 1.0])


@pytest.mark.parametrize("scale", [-0.1, 1.5, float("nan")])
def test_impossible_scale_raises(scale: float) -> None:
    with pytest.raises(ValueError, match="CFGPlusPlus: scale must be a finite number from 0 to 1"):
        CFGPlusPlus(scale)


def test_schedule_that_leaves_the_range_raises(sd: Any) -> None:
    with guide(sd, CFGPlusPlus(linear(0, 7))), pytest.raises(ValueError, match="from 0 to 1"):
        tiny.sample(sd)
