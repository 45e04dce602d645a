"""Guidance of denoisers that other libraries have changed: LoRA, IP-Adapter, ControlNet, T2I."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection

from guidance import CFG, COND, guide, prompt
from tests import tiny
from tests.guidance import survival
from tests.guidance.rules import spy
from tests.guidance.survival import AWAY_FROM_MUTE, Away
from tests.tiny import WIDTH, close

IMAGES = torch.linspace(0, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)


def lora(net: Any, rank: int = 2) -> None:
    """Gives a denoiser an adapter with random weights."""
    from peft import LoraConfig

    torch.manual_seed(1)
    parts = ["to_q", "to_v", "to_out.0"]
    net.add_adapter(LoraConfig(r=rank, target_modules=parts, init_lora_weights=False))


def ip_adapter(pipe: Any) -> None:
    """Gives a Stable Diffusion pipeline an image prompt with random weights."""
    torch.manual_seed(1)
    unet = pipe.unet
    processors: dict[str, torch.nn.Module] = {
        name: IPAdapterAttnProcessor2_0(WIDTH, WIDTH, num_tokens=(2,))
        if "attn2" in name
        else AttnProcessor2_0()
        for name in unet.attn_processors
    }
    unet.set_attn_processor(processors)
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([ImageProjection(8, WIDTH, 2)])
    unet.config.encoder_hid_dim_type = "ip_image_proj"


def controlnet(pipe: Any) -> Any:
    """A ControlNet pipeline with an effect."""
    torch.manual_seed(1)
    net = diffusers.ControlNetModel.from_unet(
        pipe.unet, conditioning_embedding_out_channels=(8, 16)
    )
    for weight in [
        *net.controlnet_down_blocks.parameters(),
        *net.controlnet_mid_block.parameters(),
    ]:
        torch.nn.init.normal_(weight, std=0.1)
    return tiny.relative("StableDiffusionControlNetPipeline", pipe, controlnet=net)


def t2i_adapter(pipe: Any) -> Any:
    """A T2I-Adapter pipeline."""
    torch.manual_seed(1)
    adapter = diffusers.T2IAdapter(
        in_channels=3, channels=[16, 32], num_res_blocks=1, downscale_factor=2
    )
    parts = {name: part for name, part in pipe.components.items() if name != "image_encoder"}
    made = diffusers.StableDiffusionAdapterPipeline(
        **parts, adapter=adapter, requires_safety_checker=False
    )
    made.set_progress_bar_config(disable=True)
    return made


class Calls:
    """Keeps the keyword arguments of every call that reaches the denoiser."""

    def __init__(self, pipe: Any) -> None:
        self.seen: list[dict[str, Any]] = []
        tiny.denoiser(pipe).register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        self.seen.append(dict(kwargs))


@pytest.mark.parametrize("scale", [None, 0.3])
def test_lora_and_its_scale(sd: Any, scale: float | None) -> None:
    call: dict[str, Any] = {} if scale is None else {"cross_attention_kwargs": {"scale": scale}}
    bare = tiny.sample(sd, **call)
    lora(sd.unet)
    assert not torch.allclose(tiny.sample(sd, **call), bare, atol=1e-2)
    survival.check(sd, **call)
    with guide(sd, CFG(5.0) + AWAY_FROM_MUTE):
        joint = tiny.sample(sd, batch=2, **call)
    with guide(sd, CFG(5.0) + AWAY_FROM_MUTE, batching="sequential"):
        close(tiny.sample(sd, batch=2, **call), joint)


def test_lora_weights_change_between_the_calls_of_a_block(sd3: Any) -> None:
    lora(sd3.transformer)
    native = {}
    for strength in (1.0, 0.4):
        sd3.transformer.set_adapters(["default"], strength)
        native[strength] = tiny.sample(sd3, scale=5.0)
    sd3.transformer.disable_adapters()
    native[0.0] = tiny.sample(sd3, scale=5.0)
    with guide(sd3, CFG(5.0)):
        assert torch.equal(tiny.sample(sd3, scale=2.0), native[0.0])
        sd3.transformer.enable_adapters()
        assert torch.equal(tiny.sample(sd3, scale=2.0), native[0.4])
        sd3.transformer.set_adapters(["default"], 1.0)
        assert torch.equal(tiny.sample(sd3, scale=2.0), native[1.0])


def test_ip_adapter(sd: Any) -> None:
    ip_adapter(sd)
    embeds = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(2))
    survival.check(sd, ip_adapter_image_embeds=[embeds])
    survival.check(sd, batch=2, ip_adapter_image_embeds=[embeds.repeat_interleave(2, 0)])


@pytest.mark.parametrize("batching", ["joint", "sequential"])
def test_extra_prompt_has_the_image_prompt_of_the_cond_rows(sd: Any, batching: str) -> None:
    """Away from a prompt is the pipeline's own guidance where both halves see the same image."""
    ip_adapter(sd)
    image = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(2))
    native = tiny.sample(sd, scale=5.0, ip_adapter_image_embeds=[torch.cat([image, image])])
    with guide(sd, Away(), batching=batching):
        other = [torch.cat([torch.zeros_like(image), image])]
        close(tiny.sample(sd, scale=2.0, ip_adapter_image_embeds=other), native)


def test_controlnet(sd: Any) -> None:
    control = controlnet(sd)
    assert not torch.allclose(tiny.sample(control, image=IMAGES[:1]), tiny.sample(sd), atol=1e-2)
    survival.check(control, batch=2, image=IMAGES)
    with guide(control, CFG(5.0) + Away()):
        joint = tiny.sample(control, batch=2, image=IMAGES)
    with guide(control, CFG(5.0) + Away(), batching="sequential"):
        close(tiny.sample(control, batch=2, image=IMAGES), joint)


def test_extra_prompt_has_the_residuals_of_the_cond_rows(sd: Any) -> None:
    control = controlnet(sd)
    calls = Calls(control)
    with guide(control, CFG(5.0) + Away()):
        tiny.sample(control, batch=2, steps=2, image=IMAGES)
    text = sd.encode_prompt([tiny.NEGATIVE] * 2, "cpu", 1, False)[0]
    assert len(calls.seen) == 2
    for call in calls.seen:
        assert torch.equal(call["encoder_hidden_states"][4:], text)
        down = call["down_block_additional_residuals"]
        for residual in (*down, call["mid_block_additional_residual"]):
            assert len(residual) == 6
            assert torch.equal(residual[4:], residual[2:4])
        uncond, cond, _ = residual.chunk(3)
        assert not torch.equal(uncond, cond)


def test_t2i_adapter() -> None:
    pipe = tiny.sd(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    adapter = t2i_adapter(pipe)
    call: dict[str, Any] = {"image": IMAGES[:1], "height": 16, "width": 16}
    assert not torch.allclose(tiny.sample(adapter, **call), tiny.sample(pipe), atol=1e-2)
    survival.check(adapter, **call)
    with guide(adapter, CFG(5.0) + AWAY_FROM_MUTE):
        joint = tiny.sample(adapter, **call)
    with guide(adapter, CFG(5.0) + AWAY_FROM_MUTE, batching="sequential"):
        close(tiny.sample(adapter, **call), joint)


def test_prompt_list_with_its_own_extra_prompts(sd: Any) -> None:
    call: dict[str, Any] = {"num_images_per_prompt": 2, "batch": 2}
    seeds = [torch.Generator().manual_seed(seed) for seed in range(4)]
    states = [generator.get_state() for generator in seeds]

    def draw(pipe: Any, **changes: Any) -> torch.Tensor:
        for generator, state in zip(seeds, states, strict=True):
            generator.set_state(state)
        return tiny.sample(pipe, generator=seeds, **call | changes)

    native = draw(sd, scale=5.0, negative_prompt=["a", "bb"])
    with guide(sd, Away(prompt(("a", "bb")))) as run:
        close(draw(sd, scale=2.0), native)
    assert run.report.nfe == 8
    with guide(sd, Away(prompt(("a", "bb", "c")))), pytest.raises(ValueError, match="2 prompts"):
        draw(sd)


def test_rule_sees_one_row_per_image_whatever_hangs_on_the_unet(sd: Any) -> None:
    control, rule = controlnet(sd), spy()
    lora(sd.unet)
    with guide(control, rule):
        tiny.sample(control, batch=2, steps=2, image=IMAGES)
    assert all(step.evaluate(COND).shape == (2, 4, 8, 8) for step in rule.steps)
