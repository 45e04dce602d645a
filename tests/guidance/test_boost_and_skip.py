"""Boost-and-Skip: closed forms for Gaussian data, every sampler and family, and what it refuses."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from math import sqrt
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from guidance import CFG, COND, AdaptiveGuidance, Direction, Rescale, Rule, Start, Step, guide
from guidance.boost_and_skip import BoostAndSkip, boost_and_skip
from guidance.core.clock import noise_level
from guidance.core.spec import parse_rule
from tests import tiny, tiny_families
from tests.guidance.rules import Interrupt, spy

MU, V0 = 2.0, 0.25
ODE = (
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
)
SDE = ("DDPMScheduler", "EulerAncestralDiscreteScheduler")


class UNet2DModel(nn.Module):
    """The exact prediction for data N(MU, V0), which is linear in x."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        self.scheduler = scheduler

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        times = self.scheduler.timesteps
        a, s = noise_level(self.scheduler, float(timestep), int((times == timestep).nonzero()[0]))
        eps = s / (a * a * V0 + s * s) * (sample - a * MU)
        if not isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler):
            return eps
        return eps - (sample - s * eps) / max(a, 1e-9) if a else sample - MU


def scheduler(name: str) -> Any:
    """A scheduler that clips nothing and ends without noise."""
    settings: dict[str, Any] = {"timestep_spacing": "trailing"}
    if name in ("DDIMScheduler", "DDPMScheduler"):
        settings["clip_sample"] = False
    return tiny.scheduler(name, **({} if name.startswith("Flow") else settings))


def loop(sampler: Any, denoiser: nn.Module, x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    noisy = "generator" in inspect.signature(sampler.step).parameters
    for t in sampler.timesteps:
        shown = sampler.scale_model_input(x, t) if hasattr(sampler, "scale_model_input") else x
        output = denoiser(shown, t)
        x = sampler.step(output, t, x, **({"generator": generator} if noisy else {}))[0]
    return x


def ends(name: str, rule: Rule, steps: int, noise: Tensor) -> Tensor:
    """Where a run of the exact model ends, from noise of variance 1."""
    sampler = scheduler(name)
    denoiser = UNet2DModel(sampler)
    with guide(denoiser, rule, scheduler=sampler):
        sampler.set_timesteps(steps)
        return loop(sampler, denoiser, noise * getattr(sampler, "init_noise_sigma", 1.0))


def start_level(name: str, steps: int, skip: float) -> tuple[float, float]:
    """Alpha and sigma of the first step that is made."""
    sampler = scheduler(name)
    sampler.set_timesteps(steps)
    skipped = boost_and_skip([t / 1000 for t in sampler.timesteps.tolist()], 1.0, skip).skipped
    return noise_level(sampler, float(sampler.timesteps[skipped]), skipped)


def test_start_is_that_of_the_paper_and_the_same_level_for_every_spacing() -> None:
    adm = [round(index * 999 / 249) / 1000 for index in reversed(range(250))]
    leading = [index * 4 / 1000 for index in reversed(range(250))]
    for times in (adm, leading, [(index * 4 - 1) / 1000 for index in range(250, 0, -1)]):
        assert boost_and_skip(times, 4.0, 0.012) == Start(3, 4.0)
    assert (
        boost_and_skip([index / 1000 for index in reversed(range(1000))], 4.0, 0.012).skipped == 12
    )
    fifty = [(index * 20 + 1) / 1000 for index in reversed(range(50))]
    assert boost_and_skip(fifty, 2.0, 0.012) == Start(0, 2.0)
    assert boost_and_skip([1.0, 0.98, 0.96], 1.0, 0.012) == Start(1, 1.0)
    assert boost_and_skip([1.0, 0.5], 1.0, 0.0) == Start()
    with pytest.raises(ValueError, match=r"skip=0.6 leaves none of the 2 steps; lower it"):
        boost_and_skip([0.9, 0.5], 1.0, 0.6)


@pytest.mark.parametrize("name", ODE)
@pytest.mark.parametrize(("boost", "skip"), [(1.0, 0.3), (1.3, 0.0), (2.0, 0.3)])
def test_ode_samplers_end_where_theory_says(name: str, boost: float, skip: float) -> None:
    noise = torch.tensor([1.0, -1.0, 0.5]).view(3, 1, 1, 1).double()
    result = ends(name, BoostAndSkip(boost, skip), 500, noise)
    a, s = start_level(name, 500, skip)
    c = sqrt(V0 / (a * a * V0 + s * s))
    expected = MU * (1 - c * a) + c * boost * noise
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("name", SDE)
@pytest.mark.parametrize(("boost", "skip"), [(1.0, 0.3), (3.0, 0.3), (4.0, 0.0)])
def test_sde_samplers_end_where_theory_says(name: str, boost: float, skip: float) -> None:
    noise = torch.randn(1, 1, 120, 120, generator=torch.Generator().manual_seed(3))
    result = ends(name, BoostAndSkip(boost, skip), 500, noise)
    a, s = start_level(name, 500, skip)
    v = a * a * V0 + s * s
    k = a * V0 / v
    assert result.mean().item() == pytest.approx(MU * (1 - k * a), abs=0.02)
    assert result.var().item() == pytest.approx(V0 + k * k * (boost**2 - v), rel=0.04)


@pytest.mark.parametrize("name", ODE + SDE)
@pytest.mark.parametrize("steps", [10, 23])
def test_later_start_is_that_of_a_loop_from_there(name: str, steps: int) -> None:
    """The rest of a run as image-to-image pipelines make it, from noise instead of an image."""
    noise = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(3))
    sampler = scheduler(name)
    sampler.set_timesteps(steps)
    skipped = sum(t >= 700 for t in sampler.timesteps.tolist())
    assert skipped > 2
    if hasattr(sampler, "set_begin_index"):
        sampler.set_begin_index(skipped)
    x = 1.5 * noise
    if name.startswith("Euler"):
        x = x * sqrt(1 + float(sampler.sigmas[skipped]) ** 2)
    denoiser, generator = UNet2DModel(sampler), torch.Generator().manual_seed(7)
    for t in sampler.timesteps[skipped:]:
        shown = sampler.scale_model_input(x, t) if hasattr(sampler, "scale_model_input") else x
        given = {"generator": generator} if name in SDE else {}
        x = sampler.step(denoiser(shown, t), t, x, **given)[0]
    torch.testing.assert_close(ends(name, BoostAndSkip(1.5, 0.3), steps, noise), x)


def boosted_randn(pipe: Any, boost: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the pipeline itself draw boosted noise."""
    module = sys.modules[type(pipe).__module__]
    plain = module.randn_tensor
    monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: boost * plain(*a, **k))


REFUSED = {
    "flux_img2img": r"starts from noise alone, found strength=0.6",
    "flux_fill": r"starts from noise alone, found strength=1",
    "flux_kontext": "its denoiser is shown 512 numbers of each sample, and its scheduler 256",
    "stable_cascade": "known to be right with DDPMWuerstchenScheduler: expected one of DDPM",
    "stable_audio": "known to be right with EDMDPMSolverMultistepScheduler",
}


@pytest.mark.parametrize("name", tiny_families.FAMILIES)
def test_every_family_starts_as_if_it_had_drawn_boosted_noise(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = tiny_families.FAMILIES[name]
    pipe = family()
    with guide(pipe, BoostAndSkip(1.3, 0.0)) as run:
        if name in REFUSED:
            with pytest.raises(ValueError, match=REFUSED[name]):
                family.call(pipe, steps=3)
            return
        boosted = family.call(pipe, scale=family.off, batch=2, steps=3)
    assert run.report.steps[0].extras == {"skipped steps": 0, "boost": 1.3}
    boosted_randn(pipe, 1.3, monkeypatch)
    tiny.close(boosted, family.call(pipe, scale=family.off, batch=2, steps=3))


@pytest.mark.parametrize("name", ODE[:-1] + SDE)
def test_every_scheduler_in_a_pipeline(sd: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sd.scheduler = tiny.scheduler(name, timestep_spacing="trailing")
    plain = tiny.sample(sd, steps=5)
    with guide(sd, CFG(5.0) + BoostAndSkip(1.3, 0.012)) as run:
        results = [tiny.sample(sd, steps=5) for _ in range(2)]
    assert torch.equal(*results)
    assert not torch.allclose(results[0], plain, atol=1e-2)
    assert run.report.nfe == 2 * 8
    first = [record.extras for record in run.report.steps if not record.index]
    assert first == [{"skipped steps": 1, "boost": 1.3}] * 2
    assert torch.equal(tiny.sample(sd, steps=5), plain)
    with guide(sd, CFG(5.0) + BoostAndSkip(1.3, 0.0)):
        boosted = tiny.sample(sd, steps=5)
    boosted_randn(sd, 1.3, monkeypatch)
    tiny.close(boosted, tiny.sample(sd, steps=5))


def test_clock_report_and_progress_bar_are_those_of_the_shorter_run(sd: Any) -> None:
    bars: list[Any] = []
    plain = type(sd).progress_bar

    class Counted(type(sd)):  # type: ignore[misc]
        @functools.wraps(plain)
        def progress_bar(self, *args: Any, **kwargs: Any) -> Any:
            bars.append(plain(self, *args, **kwargs))
            return bars[-1]

    sd.__class__ = Counted
    sd.set_progress_bar_config(disable=False)
    rule = spy()
    with guide(sd, rule + BoostAndSkip(1.2, 0.3)) as run:
        tiny.sample(sd, steps=8, callback_on_step_end=lambda pipe, i, t, kept: kept)
    fractions = [step.fraction for step in rule.steps]
    assert fractions == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert [step.timestep for step in rule.steps] == [626, 501, 376, 251, 126, 1]
    assert rule.steps[0].alpha == pytest.approx(sqrt(sd.scheduler.alphas_cumprod[626]))
    assert [record.active for record in run.report.steps][:2] == [("Spy", "BoostAndSkip"), ("Spy",)]
    assert (bars[0].total, bars[0].n) == (6, 6)
    assert sd.progress_bar(total=8).total == 8


def test_everything_is_put_back_also_by_an_exception(sd: Any) -> None:
    sd.scheduler = tiny.scheduler("EulerDiscreteScheduler")
    kind = type(sd.scheduler)
    with pytest.raises(KeyboardInterrupt), guide(sd, Interrupt() + BoostAndSkip(2.0, 0.5)):
        tiny.sample(sd, steps=6)
    assert type(sd.scheduler) is kind
    assert (len(sd.scheduler.timesteps), len(sd.scheduler.sigmas)) == (6, 7)
    assert "progress_bar" not in vars(type(sd))
    with guide(sd, BoostAndSkip(2.0, 0.5)):
        tiny.sample(sd, 1.0, steps=6)
        assert type(sd.scheduler) is kind
        assert len(sd.scheduler.timesteps) == 6
        sd.scheduler = tiny.scheduler("DDIMScheduler")  # the next call finds it
        tiny.sample(sd, 1.0, steps=6)


def test_custom_timesteps_and_sigmas(sd: Any, sd3: Any) -> None:
    sd.scheduler = tiny.scheduler("DDPMScheduler")
    with guide(sd, BoostAndSkip(2.0, 0.1)) as run:
        tiny.sample(sd, 1.0, timesteps=[990, 910, 899, 400, 10])
    assert [record.timestep for record in run.report.steps] == [899, 400, 10]
    with guide(sd3, BoostAndSkip(2.0, 0.1)) as run:
        tiny.sample(sd3, 1.0, sigmas=[1.0, 0.95, 0.8, 0.4])
    assert [record.timestep for record in run.report.steps] == pytest.approx([800, 400])


def test_flow_that_counts_from_the_data_skips_its_noisy_end() -> None:
    family = tiny_families.FAMILIES["mochi"]
    pipe = family()
    with guide(pipe, BoostAndSkip(1.1, 0.012)) as run:
        family.call(pipe, scale=family.off, steps=8)
    assert run.report.steps[0].extras["skipped steps"] >= 1
    assert run.report.steps[0].sigma < 0.988 < 1


def test_adaptive_guidance_passes_it_on(sd: Any) -> None:
    with guide(sd, CFG(5.0) + BoostAndSkip(1.2, 0.3)):
        expected = tiny.sample(sd)
    with guide(sd, AdaptiveGuidance(CFG(5.0) + BoostAndSkip(1.2, 0.3), 1.0)) as run:
        assert torch.equal(tiny.sample(sd), expected)
    assert len(run.report.steps) < 4


def test_neutral_is_the_pipeline_whatever_it_is(sd: Any) -> None:
    sd.scheduler = tiny.scheduler("HeunDiscreteScheduler")
    plain = tiny.sample(sd)
    with guide(sd, CFG(5.0) + BoostAndSkip(1.0, 0.0)) as run:
        assert torch.equal(tiny.sample(sd), plain)
    assert "boost" not in run.report.steps[0].extras


def test_runs_that_do_not_start_from_noise_are_refused(sd: Any) -> None:
    other = tiny.relative("StableDiffusionImg2ImgPipeline", sd)
    with guide(other, BoostAndSkip()), pytest.raises(ValueError, match=r"found strength=0.5; use"):
        tiny.sample(other, image=torch.rand(1, 3, 16, 16), strength=0.5)
    for name in ("HeunDiscreteScheduler", "PNDMScheduler", "KDPM2DiscreteScheduler"):
        sd.scheduler = tiny.scheduler(name)
        with guide(sd, BoostAndSkip()), pytest.raises(ValueError, match=f"be right with {name}"):
            tiny.sample(sd)
    sampler = DDIMScheduler()
    denoiser = UNet2DModel(sampler)
    x = torch.randn(1, 1, 2, 2)
    sampler.set_timesteps(4)
    with (
        guide(denoiser, BoostAndSkip(2.0, 0.0), scheduler=sampler),
        pytest.raises(ValueError, match=r"call scheduler.set_timesteps within the guide block"),
    ):
        denoiser(x, sampler.timesteps[0])
    with guide(denoiser, BoostAndSkip(2.0, 0.0), scheduler=sampler):
        sampler.set_timesteps(4)
        with pytest.raises(ValueError, match="found a run that starts at timestep 500"):
            denoiser(x, sampler.timesteps[1])
        sampler.set_timesteps(4)
        denoiser(x, sampler.timesteps[0])
        with pytest.raises(ValueError, match=r"expected a call of scheduler.step, found none"):
            denoiser(x, sampler.timesteps[1])


def test_second_run_of_a_loop_needs_its_own_timesteps() -> None:
    sampler = scheduler("DDIMScheduler")
    denoiser = UNet2DModel(sampler)
    with guide(denoiser, BoostAndSkip(2.0, 0.1), scheduler=sampler):
        sampler.set_timesteps(4)
        loop(sampler, denoiser, torch.randn(1, 1, 2, 2))
        with pytest.raises(ValueError, match=r"call scheduler.set_timesteps within"):
            loop(sampler, denoiser, torch.randn(1, 1, 2, 2))


def test_frames_with_times_of_their_own_are_refused() -> None:
    class PerFrame(UNet2DModel):
        def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
            return sample

    sampler = scheduler("DDIMScheduler")
    denoiser = PerFrame(sampler)
    with guide(denoiser, BoostAndSkip(2.0, 0.0), scheduler=sampler):
        sampler.set_timesteps(4)
        times = torch.stack([sampler.timesteps[0], torch.tensor(0)])
        with pytest.raises(ValueError, match="found frames with times of their own"):
            denoiser(torch.randn(2, 1, 2, 2), times)


def test_one_start_for_a_chain_and_no_interval() -> None:
    with pytest.raises(ValueError, match="at most one rule may change the start of a run, found"):
        BoostAndSkip() + CFG(5.0) + BoostAndSkip(2.0)
    with pytest.raises(ValueError, match=r"between: BoostAndSkip\(\) acts at the start of a run"):
        BoostAndSkip().between(0.1, 0.5)
    with pytest.raises(ValueError, match="acts at the start of a run"):
        (CFG(5.0) + BoostAndSkip()).between(sigma=(1, 5))


class Opposite(Direction):
    """Stands for any rule that looks at the sample."""

    def guide(self, step: Step) -> Tensor:
        return step.evaluate(COND) - 0.1 * step.noisy(step.x)


def test_rules_beside_it_see_the_boosted_sample(sd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with guide(sd, Opposite() + BoostAndSkip(1.5, 0.0)):
        boosted = tiny.sample(sd, 1.0)
    boosted_randn(sd, 1.5, monkeypatch)
    with guide(sd, Opposite()):
        tiny.close(boosted, tiny.sample(sd, 1.0))


@pytest.mark.parametrize(
    "rule", [BoostAndSkip(), BoostAndSkip(1.1, 0.2), CFG(4.0) + BoostAndSkip(2.0) + Rescale(0.7)]
)
def test_repr_json_and_text_rebuild_it(rule: Rule) -> None:
    names = {"BoostAndSkip": BoostAndSkip, "CFG": CFG, "Rescale": Rescale}
    assert eval(repr(rule), names) == rule
    assert Rule.from_config(json.loads(json.dumps(rule.to_config()))) == rule
    assert parse_rule(repr(rule)) == rule


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"boost": 0}, "BoostAndSkip: boost must be above 0 and skip below 1, found 0 and 0.012"),
        ({"boost": float("inf")}, "BoostAndSkip: boost must be a finite number from 0 up"),
        ({"skip": 1}, "skip below 1, found 4 and 1"),
        ({"skip": -0.1}, "BoostAndSkip: skip must be a finite number from 0 to 1"),
    ],
)
def test_impossible_settings_raise(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoostAndSkip(**settings)
    with pytest.raises(TypeError, match="BoostAndSkip: boost"):
        BoostAndSkip("4")  # type: ignore[arg-type]
