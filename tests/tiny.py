"""Tiny pipelines with random weights, one per denoiser family, built in code."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

WIDTH = 32
SIZE = 8
PROMPT = "red fox"
NEGATIVE = "grey cat"


def tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer that spells every word letter by letter."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)


def _text_config(words: CLIPTokenizer, **changes: Any) -> CLIPTextConfig:
    settings: dict[str, Any] = {
        "vocab_size": len(words),
        "hidden_size": WIDTH,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        "projection_dim": WIDTH,
        "hidden_act": "gelu",
    }
    return CLIPTextConfig(**settings | changes)


def _vae(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        shift_factor=0.0,
    )


def _unet(**changes: Any) -> UNet2DConditionModel:
    settings: dict[str, Any] = {
        "sample_size": SIZE,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**settings | changes)


BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def scheduler(name: str, **settings: Any) -> Any:
    """A diffusers scheduler by class name, with Stable Diffusion's noise unless it matches flow."""
    betas = {} if name.startswith("Flow") else BETAS
    return getattr(diffusers, name)(**betas | settings)


def sd(**unet: Any) -> Any:
    """Stable Diffusion 1.x layout; keyword arguments change the UNet."""
    torch.manual_seed(0)
    words = tokenizer()
    pipe = StableDiffusionPipeline(
        vae=_vae(4),
        text_encoder=CLIPTextModel(_text_config(words)),
        tokenizer=words,
        unet=_unet(**unet),
        scheduler=DDIMScheduler(**BETAS, steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _quiet(pipe)


def sdxl() -> Any:
    """Stable Diffusion XL layout: two text encoders, pooled embeddings and time ids."""
    torch.manual_seed(0)
    words = tokenizer()
    unet = _unet(
        cross_attention_dim=2 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        use_linear_projection=True,
    )
    pipe = StableDiffusionXLPipeline(
        vae=_vae(4),
        text_encoder=CLIPTextModel(_text_config(words)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(words)),
        tokenizer=words,
        tokenizer_2=words,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1),
        add_watermarker=False,
    )
    return _quiet(pipe)


def sd3() -> Any:
    """Stable Diffusion 3 layout without T5: flow matching, joint attention."""
    torch.manual_seed(0)
    words = tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=SIZE,
        patch_size=1,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=WIDTH,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH,
        out_channels=4,
    )
    pipe = StableDiffusion3Pipeline(
        vae=_vae(4),
        text_encoder=CLIPTextModelWithProjection(_text_config(words)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(words)),
        text_encoder_3=None,
        tokenizer=words,
        tokenizer_2=words,
        tokenizer_3=None,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    return _quiet(pipe)


def dit() -> Any:
    """Class-conditional DiT layout with learned variances."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        sample_size=SIZE,
        num_layers=2,
        patch_size=4,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    return _quiet(DiTPipeline(transformer, _vae(4), DDIMScheduler()))


FAMILIES = {"sd": sd, "sdxl": sdxl, "sd3": sd3, "dit": dit}


def relative(name: str, pipe: Any, **settings: Any) -> Any:
    """Another pipeline class on the parts of a pipeline."""
    if "safety_checker" in pipe.components:
        settings["requires_safety_checker"] = False
    return _quiet(getattr(diffusers, name)(**pipe.components, **settings))


def denoiser(pipe: Any) -> torch.nn.Module:
    """The network that a pipeline calls at every step."""
    return getattr(pipe, "transformer", None) or pipe.unet


def _quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipe


def sample(pipe: Any, scale: float = 5.0, batch: int = 1, steps: int = 4, **call: Any) -> Any:
    """Latents (pixels for DiT) of a call with one generator per image, seeds 0, 1, ..."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(batch)]
    if type(pipe).__name__ == "DiTPipeline":
        pixels = {"generator": generators, "num_inference_steps": steps, "output_type": "pt"}
        return pipe(list(range(1, batch + 1)), guidance_scale=scale, **pixels, **call).images
    settings: dict[str, Any] = {
        "prompt": [PROMPT, "blue owl", "a hat", "old map"][:batch],
        "negative_prompt": [NEGATIVE] * batch,
        "guidance_scale": scale,
        "generator": generators,
        "num_inference_steps": steps,
        "output_type": "latent",
    }
    size = {} if "image" in call else {"height": 16, "width": 16}
    return pipe(**settings | size | call).images


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal within 1e-5 of the largest value."""
    size = max(1.0, expected.abs().max().item())
    assert (actual - expected).abs().max().item() <= 1e-5 * size


class Rows:
    """Counts the rows that a denoiser is given at each of its calls."""

    def __init__(self, pipe: Any) -> None:
        self.seen: list[int] = []
        self._hook = denoiser(pipe).register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        self.seen.append(
            len(args[0] if args else kwargs.get("hidden_states", kwargs.get("sample")))
        )

    def remove(self) -> None:
        self._hook.remove()
