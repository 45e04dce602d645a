"""What can be guided, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from guidance import CFG, guide
from guidance.core.target import Target
from tests import tiny
from tests.guidance.rules import spy
from tests.tiny import close


def test_pipeline_without_guidance_raises_and_says_what_to_do(pipe: Any) -> None:
    with guide(pipe, CFG(5.0)), pytest.raises(ValueError, match="guidance_scale above 1"):
        tiny.sample(pipe, scale=1.0)


def test_distilled_unet_raises_and_says_why() -> None:
    pipe = tiny.sd(time_cond_proj_dim=8)
    with guide(pipe, CFG(5.0)), pytest.raises(ValueError, match="time_cond_proj_dim"):
        tiny.sample(pipe, scale=5.0)
    plain = tiny.sample(pipe, scale=5.0)
    with guide(pipe, CFG(1.0)):
        assert torch.equal(tiny.sample(pipe, scale=5.0), plain)


def test_skip_guidance_layers_is_refused_before_any_work(sd3: Any) -> None:
    rows = tiny.Rows(sd3)
    with guide(sd3, CFG(5.0)), pytest.raises(ValueError, match="skip_guidance_layers"):
        tiny.sample(sd3, skip_guidance_layers=[0])
    assert rows.seen == []


class Upsampler(diffusers.DiffusionPipeline):
    """A pipeline whose network denoises nothing."""

    def __init__(self, upsampler: torch.nn.Module) -> None:
        super().__init__()
        self.register_modules(upsampler=upsampler)


def test_unsupported_pipelines_are_refused(sd: Any) -> None:
    for kind, reason in (("PAG", "without PAG"), ("InstructPix2Pix", "three rows")):
        other = tiny.relative(f"StableDiffusion{kind}Pipeline", sd)
        with pytest.raises(ValueError, match=reason):
            guide(other, CFG(5.0))
    stranger = diffusers.DDPMPipeline(torch.nn.Identity(), diffusers.DDPMScheduler())
    with pytest.raises(ValueError, match="Identity is no denoiser that guide knows"):
        guide(stranger, CFG(5.0))
    with pytest.raises(ValueError, match="no denoiser: none of its parts is called transformer"):
        guide(Upsampler(torch.nn.Identity()), CFG(5.0))
    modular: Any = diffusers.StableDiffusionXLAutoBlocks()
    with pytest.raises(ValueError, match="own guider components"):
        guide(modular.init_pipeline(), CFG(5.0))


def test_compiled_denoiser_is_guided(sd: Any) -> None:
    native = tiny.sample(sd)
    sd.unet = torch.compile(sd.unet, backend="eager")
    with guide(sd, CFG(5.0)):
        close(tiny.sample(sd), native)
    assert type(sd.unet) is type(torch.compile(torch.nn.Identity(), backend="eager"))


class ThreeRows:
    """A pipeline that stacks rows in a way nobody described."""

    do_classifier_free_guidance = True

    def __init__(self, pipe: Any) -> None:
        self.unet, self.scheduler = pipe.unet, pipe.scheduler

    def __call__(self, steps: int) -> torch.Tensor:
        self.scheduler.set_timesteps(steps)
        rows = torch.randn(1, 4, 8, 8).repeat(3, 1, 1, 1)
        return self.unet(rows, 500, torch.randn(3, 5, tiny.WIDTH)).sample


def test_unknown_row_layout_is_refused(sd: Any) -> None:
    pipe = ThreeRows(sd)
    with guide(pipe, CFG(5.0)), pytest.raises(ValueError, match="ThreeRows sent 3 rows"):
        pipe(steps=2)


def test_own_loop_in_the_block_of_a_pipeline_ignores_the_pipelines_last_call(sd: Any) -> None:
    x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, tiny.WIDTH)
    with torch.no_grad():
        plain = sd.unet(x, 500, text).sample
        with guide(sd, CFG(1.0)):
            tiny.sample(sd, scale=5.0)
            assert torch.equal(sd.unet(x, 500, text).sample, plain)


def test_image_to_image_pipeline_on_the_same_denoiser_is_guided_too(sd: Any) -> None:
    other = tiny.relative("StableDiffusionImg2ImgPipeline", sd)
    call: dict[str, Any] = {"image": torch.rand(1, 3, 16, 16), "strength": 0.5, "steps": 6}
    native = tiny.sample(other, scale=5.0, **call)
    with guide(sd, CFG(5.0)) as run:
        tiny.sample(sd, scale=2.0)
        assert torch.equal(tiny.sample(other, scale=2.0, **call), native)
    assert [record.index for record in run.report.steps] == [0, 1, 2, 3, 0, 1, 2]


def prompts(pipe: Any, **call: Any) -> Any:
    """Prompts of the images as rules see them."""
    rule = spy()
    with guide(pipe, rule):
        tiny.sample(pipe, steps=1, **call)
    return rule.steps[0].prompts


def test_rules_see_the_prompt_of_every_image(sd: Any, dit: Any) -> None:
    generator = torch.Generator()
    assert prompts(sd, batch=2) == (tiny.PROMPT, "blue owl")
    assert prompts(sd, scale=1.0, prompt="a hat", negative_prompt=None) == ("a hat",)
    several = {"num_images_per_prompt": 2, "generator": generator}
    expected = ("a hat", "a hat", "old map", "old map")
    two = {"prompt": ["a hat", "old map"], "negative_prompt": ["x", "y"]}
    assert prompts(sd, **several, **two) == expected
    assert prompts(dit, batch=3) == (1, 2, 3)
    embeds = torch.randn(2, 16, tiny.WIDTH)
    given = {"prompt_embeds": embeds, "negative_prompt_embeds": embeds}
    none = {"prompt": None, "negative_prompt": None, "generator": generator}
    assert prompts(sd, **none, **given) is None


def test_prompts_outside_of_calls_and_of_uneven_batches(sd: Any) -> None:
    target = Target(sd)
    assert target.prompts(2) is None
    target.call = {"class_labels": torch.tensor([3, 7])}
    assert target.prompts(4) == (3, 3, 7, 7)
    target.call = {"prompt": ["a", "b"]}
    assert target.prompts(3) is None
    target.call = {"prompt": []}
    assert target.prompts(3) is None
