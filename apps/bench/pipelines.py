"""What training is measured on: emblem-unet, and whole pipelines with random weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from apps.bench.models import KINDS, in_dtype
from apps.bench.settings import PersonalizeSettings
from apps.pipelines import load_pipeline, pick_device, pick_dtype
from personalize.core.artifact import Artifact
from personalize.core.backbones import backbone_of
from personalize.core.borrowed import modules
from personalize.core.projections import cross_projections

PHOTOS = 4
_SIDE_ON_CPU = 256


@dataclass(frozen=True)
class _Sizes:
    """Sizes beside those of the UNet.

    Attributes:
        words: of the tokenizer.
        text: of the text encoder: width, inner width, layers, heads.
        vae: channels of the VAE's blocks.
        pixels: side of the picture.
    """

    words: int
    text: tuple[int, int, int, int]
    vae: tuple[int, int, int, int]
    pixels: int


_SIZES = {
    "tiny": _Sizes(600, (32, 64, 2, 4), (32, 32, 32, 32), 128),
    "sd15": _Sizes(49408, (768, 3072, 12, 12), (128, 256, 512, 512), 512),
}


def pipeline(name: str, settings: PersonalizeSettings) -> Any:
    """The pipeline of this name on the device and in the dtype of the settings."""
    if name == "emblem-unet":
        return load_pipeline(name, device=settings.device, dtype=settings.dtype)
    device = pick_device(settings.device)
    dtype, sizes = pick_dtype(settings.dtype, device), _SIZES[name]
    tokenizer = _tokenizer(sizes.words)
    unet = KINDS[name].settings | {"sample_size": sizes.pixels // 8}
    text = _text_config(sizes.text, tokenizer)
    torch.manual_seed(0)
    pipe = StableDiffusionPipeline(
        vae=in_dtype(dtype, device, lambda: _vae(sizes)).eval(),
        text_encoder=in_dtype(dtype, device, lambda: CLIPTextModel(text)).eval(),
        tokenizer=tokenizer,
        unet=in_dtype(dtype, device, lambda: UNet2DConditionModel(**unet)).eval(),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            clip_sample=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def side(pipe: Any, settings: PersonalizeSettings) -> int:
    """Side in pixels of the pictures to train on and to draw."""
    own = backbone_of(pipe).resolution
    on_cpu = pick_device(settings.device).type == "cpu"
    return settings.resolution or (min(own, _SIDE_ON_CPU) if on_cpu else own)


def photos(folder: Path, side: int) -> Path:
    """A folder of pictures of noise."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(PHOTOS):
        pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def twin(pipe: Any) -> Any:
    """A pipeline of the same weights in networks of its own, with a tokenizer of its own."""
    shared = {
        id(tensor): tensor
        for network in modules(pipe).values()
        for tensor in (*network.parameters(), *network.buffers())
    }
    parts = {name: copy.deepcopy(part, dict(shared)) for name, part in pipe.components.items()}
    made = type(pipe)(**parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def concept(pipe: Any, token: str) -> Artifact:
    """A concept of Perfusion that is noise."""
    noise = torch.Generator().manual_seed(0)
    widths = {
        name: layer.out_features
        for name, layer in cross_projections(pipe.unet).items()
        if name.endswith("to_v")
    }
    widths |= dict.fromkeys(("i_star", "super_category"), pipe.unet.config.cross_attention_dim)
    tensors = {name: torch.randn(width, generator=noise) for name, width in widths.items()}
    tensors["c_inv_i_star"] = tensors["i_star"]
    tensors["embedding.clip_l"] = torch.randn(
        1, pipe.text_encoder.config.hidden_size, generator=noise
    )
    about = {"token": token, "covariance": "", "clip_skip": "null"}
    return Artifact("perfusion", tensors, about)


def _tokenizer(words: int) -> CLIPTokenizer:
    """A CLIP tokenizer that spells every word, with as many tokens as a real one."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [f"<unused-{number}>" for number in range(words - len(tokens) - 2)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def _text_config(sizes: tuple[int, int, int, int], tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    width, inner, layers, heads = sizes
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        projection_dim=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _vae(sizes: _Sizes) -> AutoencoderKL:
    blocks = len(sizes.vae)
    return AutoencoderKL(
        block_out_channels=sizes.vae,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=2,
        latent_channels=4,
        sample_size=sizes.pixels,
    )
