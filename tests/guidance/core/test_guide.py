"""The guide block: exactness, restoration, several calls, dtypes, and checked arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from guidance import CFG, COND, Direction, Rescale, Step, guide
from tests import tiny
from tests.guidance.rules import Interrupt, spy
from tests.tiny import close


def state(module: torch.nn.Module) -> dict[str, Any]:
    """What a guide block could leave behind on a module and on its parts."""
    return {
        name: (type(part), list(part.__dict__), list(part._forward_pre_hooks))
        for name, part in module.named_modules()
    }


def test_leaves_everything_as_it_was(pipe: Any) -> None:
    net = tiny.denoiser(pipe)
    before, weights = state(net), {k: v.clone() for k, v in net.state_dict().items()}
    attributes = {k for k in pipe.__dict__ if not k.startswith("_")}
    plain, cls = tiny.sample(pipe), type(pipe)
    with guide(pipe, CFG(9.0)):
        assert isinstance(net, tuple(before[""][:1]))
        assert type(net).__name__ == before[""][0].__name__
        tiny.sample(pipe)
    assert state(net) == before
    assert type(pipe) is cls
    assert {k for k in pipe.__dict__ if not k.startswith("_")} == attributes
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())
    assert torch.equal(tiny.sample(pipe), plain)


def test_restores_after_an_interrupt_inside_a_run(pipe: Any) -> None:
    net, cls = tiny.denoiser(pipe), type(pipe)
    before, plain = state(net), tiny.sample(pipe)
    with pytest.raises(KeyboardInterrupt), guide(pipe, Interrupt()):
        tiny.sample(pipe)
    assert state(net) == before
    assert type(pipe) is cls
    assert torch.equal(tiny.sample(pipe), plain)
    with guide(pipe, CFG(5.0)):
        assert torch.equal(tiny.sample(pipe, scale=2.0), plain)


def test_several_calls_in_one_block(pipe: Any) -> None:
    native = [tiny.sample(pipe, 5.0, batch=b, steps=s) for b, s in ((1, 4), (3, 3))]
    with guide(pipe, CFG(5.0)) as run:
        assert torch.equal(tiny.sample(pipe, 2.0, batch=1, steps=4), native[0])
        assert torch.equal(tiny.sample(pipe, 2.0, batch=3, steps=3), native[1])
    assert [(r.run, r.index) for r in run.report.steps] == [
        *((0, i) for i in range(4)),
        *((1, i) for i in range(3)),
    ]


def test_image_in_a_batch_is_the_image_alone(sd: Any, sd3: Any) -> None:
    for pipe in (sd, sd3):
        with guide(pipe, CFG(3.0) + Rescale(0.5)):
            batch = tiny.sample(pipe, batch=4)
            for seed, prompt in enumerate([tiny.PROMPT, "blue owl", "a hat", "old map"]):
                alone = tiny.sample(
                    pipe, prompt=[prompt], generator=torch.Generator().manual_seed(seed)
                )
                close(batch[seed], alone[0])


def test_memory_lives_for_one_run(sd: Any) -> None:
    with guide(sd, spy()) as run:
        tiny.sample(sd, steps=3)
        tiny.sample(sd, steps=2)
    assert [record.extras["calls"] for record in run.report.steps] == [1, 2, 3, 1, 2]


def test_images_per_prompt_and_prompt_lists(sd: Any) -> None:
    call: dict[str, Any] = {
        "prompt": ["red", "blue"],
        "negative_prompt": ["x", "y"],
        "num_images_per_prompt": 2,
    }
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    states = [g.get_state() for g in generators]
    native = tiny.sample(sd, scale=5.0, generator=generators, **call)
    for generator, saved in zip(generators, states, strict=True):
        generator.set_state(saved)
    with guide(sd, CFG(5.0)):
        assert torch.equal(tiny.sample(sd, 2.0, generator=generators, **call), native)


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [("sd", "DPMSolverMultistepScheduler"), ("sd", "HeunDiscreteScheduler"), ("sd3", None)],
)
def test_img2img_counts_its_own_calls(name: str, scheduler: str | None) -> None:
    pipe = tiny.FAMILIES[name]()
    if scheduler:
        pipe.scheduler = tiny.scheduler(scheduler, steps_offset=1)
    kind = "StableDiffusionImg2ImgPipeline" if name == "sd" else "StableDiffusion3Img2ImgPipeline"
    img2img = tiny.relative(kind, pipe)
    image = torch.rand(1, 3, 16, 16)
    native = tiny.sample(img2img, 5.0, steps=8, image=image, strength=0.5)
    with guide(img2img, CFG(5.0)) as run:
        assert torch.equal(tiny.sample(img2img, 2.0, steps=8, image=image, strength=0.5), native)
    noise = [record.edm_sigma for record in run.report.steps]
    assert noise == sorted(noise, reverse=True)
    assert noise[0] < 5
    rule = CFG(5.0).between(0, 0.5)
    with guide(img2img, rule) as run:
        tiny.sample(img2img, 2.0, steps=8, image=image, strength=0.5)
    guided = [record.evaluations for record in run.report.steps]
    assert guided == sorted(guided, reverse=True)
    assert sum(guided) == len(guided) + (len(guided) + 1) // 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_keeps_dtype_and_stays_finite(pipe: Any, dtype: torch.dtype) -> None:
    pipe.to(dtype=dtype)
    native = tiny.sample(pipe, scale=4.0)
    with guide(pipe, CFG(4.0)):
        assert torch.equal(tiny.sample(pipe, scale=2.0), native)
    with guide(pipe, CFG(4.0) + Rescale(0.7)):
        guided = tiny.sample(pipe, scale=2.0)
    assert guided.dtype == native.dtype
    assert guided.isfinite().all()


def test_survives_model_offloading(pipe: Any) -> None:
    native = tiny.sample(pipe, scale=5.0)
    pipe.enable_model_cpu_offload(device="cpu")
    with guide(pipe, CFG(5.0)) as run:
        for _ in range(3):
            assert torch.equal(tiny.sample(pipe, scale=2.0), native)
    assert run.report.nfe == 24
    assert not torch.equal(tiny.sample(pipe, scale=2.0), native)


def test_rule_sees_the_model_input(sd: Any) -> None:
    rule = spy()
    with guide(sd, rule) as run:
        tiny.sample(sd, scale=5.0, batch=2, steps=4)
    assert [step.fraction for step in rule.steps] == [0, 0.25, 0.5, 0.75]
    assert all(step.x.shape == (2, 4, 8, 8) and step.count == 4 for step in rule.steps)
    assert run.report.nfe == 4


def test_nesting_raises_and_leaves_the_outer_block_working(sd: Any) -> None:
    native = tiny.sample(sd, scale=5.0)
    with guide(sd, CFG(5.0)):
        with pytest.raises(ValueError, match="guided already"), guide(sd, CFG(2.0)):
            pass
        with (
            pytest.raises(ValueError, match="guided already"),
            guide(sd.unet, CFG(2.0), scheduler=sd.scheduler),
        ):
            pass
        assert torch.equal(tiny.sample(sd, scale=3.0), native)


def test_arguments_are_checked(sd: Any) -> None:
    with pytest.raises(TypeError, match="found 'CFG'"):
        guide(sd, "CFG")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batching must be one of joint, sequential"):
        guide(sd, CFG(5.0), batching="both")
    with pytest.raises(TypeError, match="needs the scheduler"):
        guide(sd.unet, CFG(5.0))
    with pytest.raises(TypeError, match="expected a diffusers pipeline or denoiser, found dict"):
        guide({}, CFG(5.0))


def test_rule_that_returns_another_shape_is_named(sd: Any) -> None:
    class Wrong(Direction):
        def guide(self, step: Step) -> torch.Tensor:
            return step.evaluate(COND)[:, :1]

    with guide(sd, Wrong()), pytest.raises(ValueError, match=r"Wrong\(\) must return shape"):
        tiny.sample(sd)
