"""What is measured: emblem-unet, and denoisers of well-known sizes with random weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor

from apps.bench.settings import BenchSettings
from apps.pipelines import load_pipeline, pick_device, pick_dtype

PROMPTS = (
    "a large red star on a blue background",
    "a small striped green ring on a yellow background",
    "a blue heart on a white background",
    "a small yellow star on a red background",
)


@dataclass(frozen=True)
class Subject:
    """A pipeline and its call, with the prompt embedded beforehand and without decoding.

    Attributes:
        pipe: the pipeline.
        denoiser: its network.
        call: arguments of the call.
        scale: name of the argument that holds its guidance scale.
    """

    pipe: Any
    denoiser: torch.nn.Module
    call: dict[str, Any]
    scale: str

    @property
    def steps(self) -> int:
        return int(self.call["num_inference_steps"])

    def sample(self, scale: float, pipe: Any = None, **changes: Any) -> Tensor:
        """Latents of one call, always of the same noise, of this pipeline or of another."""
        noise = torch.Generator().manual_seed(0)
        call = self.call | {self.scale: scale} | changes
        return (pipe or self.pipe)(**call, generator=noise).images


def subject(name: str, settings: BenchSettings, batch: int = 1) -> Subject:
    """The subject of this name on the device and in the dtype of the settings."""
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    made = (
        _emblem(settings, batch)
        if name == "emblem-unet"
        else _random(name, device, dtype, batch, steps=1 if device.type == "cpu" else 10)
    )
    if settings.steps is not None:
        made.call["num_inference_steps"] = settings.steps
    if settings.compiled:
        made.denoiser.compile()
    made.pipe.set_progress_bar_config(disable=True)
    return made


def _emblem(settings: BenchSettings, batch: int) -> Subject:
    pipe = load_pipeline("emblem-unet", device=settings.device, dtype=settings.dtype)
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(batch)]
    cond, uncond = pipe.encode_prompt(prompts, pipe.device, 1, True)
    call = {"prompt_embeds": cond, "negative_prompt_embeds": uncond, "num_inference_steps": 25}
    return Subject(pipe, pipe.unet, call | {"output_type": "latent"}, "guidance_scale")


def _unet(*channels: int, **changes: Any) -> dict[str, Any]:
    """Settings of a UNet with Stable Diffusion 1.5's layout."""
    return {
        "sample_size": 64,
        "block_out_channels": channels,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    } | changes


_SDXL = _unet(
    *(320, 640, 1280),
    sample_size=128,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10),
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
    use_linear_projection=True,
)
_SD35 = {
    "sample_size": 128,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}


@dataclass(frozen=True)
class Kind:
    """A pipeline of which only the denoiser is built.

    Attributes:
        pipeline, denoiser: class names.
        settings: of the denoiser; its class's defaults have the size of the well-known model.
        text, pooled: shapes of a prompt's embeddings.
        pixels: side of the picture.
    """

    pipeline: str
    denoiser: str
    settings: dict[str, Any]
    text: tuple[int, int]
    pooled: int | None = None
    pixels: int = 1024


def _sd(pixels: int, **settings: Any) -> Kind:
    text = (77, settings["cross_attention_dim"])
    return Kind("StableDiffusionPipeline", "UNet2DConditionModel", settings, text, None, pixels)


KINDS = {
    "tiny": _sd(64, **_unet(32, 32, 32, 32, cross_attention_dim=32, layers_per_block=1)),
    "sd15-half": _sd(512, **_unet(160, 320, 640, 640)),
    "sd15": _sd(512, **_unet(320, 640, 1280, 1280)),
    "sdxl": Kind("StableDiffusionXLPipeline", "UNet2DConditionModel", _SDXL, (77, 2048), 1280),
    "sd35": Kind("StableDiffusion3Pipeline", "SD3Transformer2DModel", _SD35, (333, 4096), 2048),
    "flux": Kind(
        "FluxPipeline", "FluxTransformer2DModel", {"guidance_embeds": True}, (512, 4096), 768
    ),
}


def _random(
    name: str, device: torch.device, dtype: torch.dtype, batch: int, *, steps: int
) -> Subject:
    kind = KINDS[name]
    torch.manual_seed(0)
    model = in_dtype(
        dtype, device, lambda: getattr(diffusers, kind.denoiser)(**kind.settings)
    ).eval()
    slot = "unet" if kind.denoiser.startswith("UNet") else "transformer"
    scheduler = (
        diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)
        if slot == "unet"
        else diffusers.FlowMatchEulerDiscreteScheduler()
    )
    cls = getattr(diffusers, kind.pipeline)
    parts = inspect.signature(cls).parameters
    given = {slot: model, "scheduler": scheduler, "requires_safety_checker": False}
    empty = {part: None for part, at in parts.items() if at.default is inspect.Parameter.empty}
    pipe = cls(**empty | {part: value for part, value in given.items() if part in parts})
    call: dict[str, Any] = {
        "height": kind.pixels,
        "width": kind.pixels,
        "num_inference_steps": steps,
        "output_type": "latent",
    }
    for sign in ("", "negative_"):
        call[f"{sign}prompt_embeds"] = torch.randn(batch, *kind.text).to(device, dtype)
        if kind.pooled:
            pooled = torch.randn(batch, kind.pooled).to(device, dtype)
            call[f"{sign}pooled_prompt_embeds"] = pooled
    return Subject(pipe, model, call, "true_cfg_scale" if name == "flux" else "guidance_scale")


def in_dtype(dtype: torch.dtype, device: torch.device, build: Callable[[], Any]) -> Any:
    """Build a network with its weights where and how they are needed from the start."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return build()
    finally:
        torch.set_default_dtype(usual)
