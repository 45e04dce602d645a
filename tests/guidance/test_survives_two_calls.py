"""Guidance of FLUX, which calls its denoiser once for each branch, under what users do to it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, UniPCMultistepScheduler

from guidance import CFG, Rescale, guide
from tests import tiny
from tests.guidance import survival
from tests.guidance.survival import Away, Breaks, Callback, ChangesLatents, Interrupts, called
from tests.tiny import close
from tests.tiny_families import FAMILIES

FLUX = FAMILIES["flux"]
AWAY_FROM_MUTE = survival.away_from_mute("single_transformer_blocks.0.proj_mlp")
check = functools.partial(survival.check, sample=FLUX.call)


@pytest.fixture
def flux() -> Any:
    """FLUX.1 pipeline."""
    return FLUX()


def second_order(pipe: Any) -> None:
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    pipe.scheduler = UniPCMultistepScheduler(**flow)


def offloaded(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def offloaded_in_groups(pipe: Any) -> None:
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")


def adapted(pipe: Any) -> None:
    from peft import LoraConfig

    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))


def cached(pipe: Any) -> None:
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))


def half(pipe: Any) -> None:
    pipe.to(dtype=torch.bfloat16)


@pytest.mark.parametrize(
    "change",
    [second_order, offloaded, offloaded_in_groups, adapted, cached, half],
    ids=lambda f: f.__name__,
)
def test_changed_pipelines(flux: Any, change: Callable[[Any], None]) -> None:
    change(flux)
    check(flux, batch=2, steps=4)
    with guide(flux, CFG(5.0) + AWAY_FROM_MUTE + Away() + Rescale(0.5)) as run:
        for _ in range(2):
            assert FLUX.call(flux, scale=2.0, steps=4).isfinite().all()
    assert {record.evaluations for record in run.report.steps} == {4}


@pytest.mark.parametrize("kind", [Callback, ChangesLatents, Interrupts])
def test_callbacks(flux: Any, kind: type[Callback]) -> None:
    check(flux, steps=4, **called(kind, "latents"))


@pytest.mark.parametrize("call", [1, 2, 3])
def test_error_in_either_call_leaves_the_block_working(flux: Any, call: int) -> None:
    native, breaks = FLUX.call(flux, scale=5.0), Breaks(flux, 0)
    with guide(flux, CFG(5.0)):
        breaks.left = call
        with pytest.raises(RuntimeError, match="out of memory"):
            FLUX.call(flux, scale=2.0)
        assert torch.equal(FLUX.call(flux, scale=2.0), native)
    assert torch.equal(FLUX.call(flux, scale=5.0), native)


def test_several_images_per_prompt(flux: Any) -> None:
    check(flux, batch=2, num_images_per_prompt=2, generator=None, latents=torch.randn(4, 16, 16))


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("batching", ["joint", "sequential"])
def test_missing_negative_prompt_is_asked_for(flux: Any, steps: int, batching: str) -> None:
    plain = FLUX.call(flux, scale=1.0, steps=steps)
    with guide(flux, CFG(5.0), batching=batching):
        with pytest.raises(ValueError, match="true_cfg_scale above 1 and a negative_prompt"):
            FLUX.call(flux, negative_prompt=None, steps=steps)
        FLUX.call(flux, steps=steps)
    assert torch.equal(FLUX.call(flux, scale=1.0, steps=steps), plain)


class Loop:
    """A user's own loop over FLUX's denoiser."""

    def __init__(self, flux: Any) -> None:
        self.model, self.scheduler = flux.transformer, flux.scheduler
        self.scheduler.set_timesteps(2, mu=1.0)
        self.x = torch.randn(1, 16, 16)
        self.cond, self.uncond = torch.randn(2, 1, 5, tiny.WIDTH)
        self.ids = torch.zeros(5, 3), torch.zeros(16, 3)

    def predict(self, x: torch.Tensor, step: int, text: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.model(
                hidden_states=x,
                timestep=self.scheduler.timesteps[step].expand(1) / 1000,
                guidance=torch.ones(1),
                pooled_projections=torch.zeros(1, tiny.WIDTH),
                encoder_hidden_states=text,
                txt_ids=self.ids[0],
                img_ids=self.ids[1],
                return_dict=False,
            )[0]

    def guide(self) -> Any:
        return guide(self.model, CFG(3.0), scheduler=self.scheduler)


def test_own_loop(flux: Any) -> None:
    loop = Loop(flux)
    cond, uncond = (loop.predict(loop.x, 0, text) for text in (loop.cond, loop.uncond))
    with loop.guide() as run:
        for again in (loop.x, loop.x.clone()):
            both = loop.predict(loop.x, 0, loop.cond), loop.predict(again, 0, loop.uncond)
            for guided in both:
                assert torch.equal(guided, uncond + 3.0 * (cond - uncond))
    assert [record.evaluations for record in run.report.steps] == [2, 2]
    close(loop.predict(loop.x, 0, loop.cond), cond)


def test_own_loop_without_the_second_call(flux: Any) -> None:
    loop, words = Loop(flux), "call the denoiser once for each branch, cond first"
    with loop.guide():
        loop.predict(loop.x, 0, loop.cond)
        with pytest.raises(ValueError, match=words):
            loop.predict(loop.x, 1, loop.cond)
    with pytest.raises(ValueError, match=words), loop.guide():
        loop.predict(loop.x, 0, loop.cond)
    with loop.guide():
        loop.predict(loop.x, 0, loop.cond)
        with pytest.raises(ValueError, match=words):
            loop.predict(loop.x + 1, 0, loop.uncond)


def test_own_loop_that_fails_shows_its_own_error(flux: Any) -> None:
    loop = Loop(flux)
    with pytest.raises(ZeroDivisionError), loop.guide():
        loop.predict(loop.x, 0, loop.cond)
        raise ZeroDivisionError
