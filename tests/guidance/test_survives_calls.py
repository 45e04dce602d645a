"""Guidance through callbacks, interruptions, errors, shared parts, threads and other schedulers."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from guidance import CFG, guide
from tests import tiny
from tests.guidance import survival
from tests.guidance.survival import (
    AWAY_FROM_MUTE,
    Away,
    Breaks,
    Callback,
    ChangesLatents,
    Interrupts,
    called,
)
from tests.tiny import close


class ChangesPrompt(Callback):
    def change(self, pipe: Any, index: int, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"prompt_embeds": tensors["prompt_embeds"].flip(1)}


class EndsGuidance(Callback):
    """As diffusers' documentation turns guidance off halfway."""

    def change(self, pipe: Any, index: int, tensors: dict[str, Any]) -> dict[str, Any]:
        if index != 1:
            return {}
        pipe._guidance_scale = 0.0
        return {"prompt_embeds": tensors["prompt_embeds"].chunk(2)[-1]}


CALLBACKS = (Callback, ChangesLatents, Interrupts, ChangesPrompt)


@pytest.mark.parametrize("kind", CALLBACKS)
@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_callbacks(name: str, kind: type[Callback]) -> None:
    pipe = tiny.FAMILIES[name]()
    survival.check(pipe, batch=2, **called(kind, "latents", "prompt_embeds"))
    native = tiny.sample(pipe, scale=5.0)
    with guide(pipe, CFG(5.0)) as run:
        tiny.sample(pipe, scale=2.0, **called(kind, "latents", "prompt_embeds"))
        made = len(run.report.steps)
        assert torch.equal(tiny.sample(pipe, scale=2.0), native)
    assert made == (2 if kind is Interrupts else 4)
    assert [record.index for record in run.report.steps[made:]] == [0, 1, 2, 3]


def test_callback_that_ends_the_pipelines_guidance(sd: Any) -> None:
    native = tiny.sample(sd, scale=5.0, **called(EndsGuidance, "prompt_embeds"))
    assert not torch.equal(native, tiny.sample(sd, scale=5.0))
    with guide(sd, CFG()) as run:
        assert torch.equal(
            tiny.sample(sd, scale=5.0, **called(EndsGuidance, "prompt_embeds")), native
        )
    assert [record.evaluations for record in run.report.steps] == [2, 2, 1, 1]
    with guide(sd, CFG(5.0)), pytest.raises(ValueError, match="guidance_scale above 1"):
        tiny.sample(sd, scale=5.0, **called(EndsGuidance, "prompt_embeds"))


def test_extra_prompts_call_no_callback_and_take_no_random_numbers(sd: Any) -> None:
    callback = called(Callback, "latents")
    generator = torch.Generator().manual_seed(3)
    native = tiny.sample(sd, scale=5.0, generator=generator)
    state = generator.get_state()
    generator.manual_seed(3)
    with guide(sd, Away()):
        close(tiny.sample(sd, scale=2.0, generator=generator, **callback), native)
    assert torch.equal(generator.get_state(), state)
    assert callback["callback_on_step_end"].steps == 4


@pytest.mark.parametrize("call", [1, 2])
def test_error_in_the_denoiser_leaves_the_block_working(pipe: Any, call: int) -> None:
    plain = tiny.sample(pipe, scale=5.0)
    breaks = Breaks(pipe, 0)
    before = survival.footprint(pipe)
    with guide(pipe, CFG(5.0)) as run:
        breaks.left = call
        with pytest.raises(RuntimeError, match="out of memory"):
            tiny.sample(pipe, scale=2.0)
        done = len(run.report.steps)
        assert torch.equal(tiny.sample(pipe, scale=2.0), plain)
        assert [record.index for record in run.report.steps[done:]] == [0, 1, 2, 3]
    assert survival.footprint(pipe) == before
    breaks.left = call
    with pytest.raises(RuntimeError, match="out of memory"), guide(pipe, CFG(5.0)):
        tiny.sample(pipe, scale=2.0)
    assert survival.footprint(pipe) == before
    assert torch.equal(tiny.sample(pipe, scale=5.0), plain)


def test_error_under_a_perturbation_takes_it_back(sd: Any) -> None:
    plain, breaks = tiny.sample(sd, scale=5.0), Breaks(sd, 2)
    before = survival.footprint(sd)
    with pytest.raises(RuntimeError, match="out of memory"), guide(sd, AWAY_FROM_MUTE):
        tiny.sample(sd, scale=2.0)
    assert breaks.left == 0
    assert survival.footprint(sd) == before
    assert torch.equal(tiny.sample(sd, scale=5.0), plain)


def test_wrong_call_with_an_extra_prompt(sd: Any) -> None:
    sd.set_progress_bar_config(disable=True, desc="mine")
    with guide(sd, Away()):
        with pytest.raises(ValueError, match="divisible by 8"):
            tiny.sample(sd, height=17)
        assert sd._progress_bar_config == {"disable": True, "desc": "mine"}
        tiny.sample(sd)
    assert sd._progress_bar_config == {"disable": True, "desc": "mine"}


def test_pipelines_that_share_a_denoiser(sd: Any) -> None:
    other = tiny.relative("StableDiffusionImg2ImgPipeline", sd)
    call: dict[str, Any] = {"image": torch.rand(1, 3, 16, 16), "strength": 0.5, "steps": 6}
    natives = tiny.sample(sd, scale=5.0), tiny.sample(other, scale=5.0, **call)
    with guide(sd, CFG(5.0)):
        with pytest.raises(ValueError, match="guided already"), guide(other, CFG(2.0)):
            pass
        assert torch.equal(tiny.sample(sd, scale=2.0), natives[0])
    with guide(other, CFG(5.0)):
        assert torch.equal(tiny.sample(other, scale=2.0, **call), natives[1])
    assert torch.equal(tiny.sample(sd, scale=5.0), natives[0])
    assert torch.equal(tiny.sample(other, scale=5.0, **call), natives[1])


def test_pipeline_made_and_saved_in_the_block(sd: Any, tmp_path: Path) -> None:
    native = tiny.sample(sd, scale=5.0)
    with guide(sd, CFG(5.0)):
        other = diffusers.AutoPipelineForImage2Image.from_pipe(sd)
        assert type(other) is diffusers.StableDiffusionImg2ImgPipeline
        sd.save_pretrained(tmp_path)
    loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is diffusers.StableDiffusionPipeline
    assert torch.equal(tiny.sample(loaded, scale=5.0), native)


def test_denoiser_that_is_replaced_in_the_block(sd: Any) -> None:
    with guide(sd, CFG(5.0)):
        guided, sd.unet = sd.unet, tiny.sd().unet
        with pytest.raises(ValueError, match="another denoiser within the guide block"):
            tiny.sample(sd)
        sd.unet = guided
        tiny.sample(sd)


def test_two_threads_guide_two_pipelines() -> None:
    jobs = {"sd": CFG(5.0) + Away(), "sd3": CFG(3.0).between(0, 0.5)}
    pipes = {name: tiny.FAMILIES[name]() for name in jobs}
    start, made = threading.Barrier(2), {}

    def work(name: str) -> list[torch.Tensor]:
        with guide(pipes[name], jobs[name]):
            return [tiny.sample(pipes[name], batch=2) for _ in range(4)]

    def beside(name: str) -> None:
        start.wait()
        made[name] = work(name)

    alone = {name: work(name) for name in jobs}
    threads = [threading.Thread(target=beside, args=(name,)) for name in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, images in alone.items():
        assert all(map(torch.equal, made[name], images))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("DEISMultistepScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        ("DPMSolverSinglestepScheduler", {"use_karras_sigmas": True}),
        ("KDPM2AncestralDiscreteScheduler", {}),
        ("HeunDiscreteScheduler", {"use_karras_sigmas": True}),
        ("PNDMScheduler", {"skip_prk_steps": False}),
        ("LCMScheduler", {}),
        ("TCDScheduler", {}),
        ("DDIMParallelScheduler", {"timestep_spacing": "trailing"}),
        ("SASolverScheduler", {}),
    ],
)
def test_schedulers(sd: Any, name: str, settings: dict[str, Any]) -> None:
    sd.scheduler = tiny.scheduler(name, **settings)
    survival.check(sd, batch=2)
    native = tiny.sample(sd, scale=5.0)
    with guide(sd, Away()):
        close(tiny.sample(sd, scale=2.0), native)
