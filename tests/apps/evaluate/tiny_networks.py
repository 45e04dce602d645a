"""Tiny networks with random weights, saved as their big relatives are, and pictures for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from tests.tiny import tokenizer

SIDE = 28
MEAN, STD = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
LAYERS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
}
PATCHES: dict[str, Any] = {"image_size": SIDE, "patch_size": 14}
NORMAL: dict[str, Any] = {"image_mean": MEAN, "image_std": STD}
CROP: dict[str, Any] = {"crop_size": {"height": SIDE, "width": SIDE}}


def save_clip(folder: Path, tokens: int = 16) -> Path:
    """CLIP of 28 px, whose shorter side is 32 px before the crop; a byte is a token."""
    torch.manual_seed(0)
    words = tokenizer()
    text = {
        "vocab_size": len(words),
        "max_position_embeddings": tokens,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    config = CLIPConfig(
        text_config=LAYERS | text, vision_config=LAYERS | PATCHES, projection_dim=24
    )
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, **CROP, **NORMAL)
    CLIPProcessor(images, words).save_pretrained(folder)
    return folder


def save_dinov2(folder: Path) -> Path:
    """DINOv2 of 28 px, whose image processor leaves grey pictures grey."""
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(**LAYERS | PATCHES)).save_pretrained(folder)
    size = {"shortest_edge": 32}
    images = BitImageProcessorPil(size=size, do_convert_rgb=False, **CROP, **NORMAL)
    images.save_pretrained(folder)
    return folder


def save_vit(folder: Path) -> Path:
    """A vision transformer of 28 px as the first DINO, without the pooler that AutoModel adds."""
    torch.manual_seed(0)
    ViTModel(ViTConfig(**LAYERS | PATCHES), add_pooling_layer=False).save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    ViTImageProcessorPil(size=size, **NORMAL).save_pretrained(folder)
    return folder


def picture(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    """A picture of random coloured tiles."""
    tiles = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(tiles).resize((width, height), Image.Resampling.BICUBIC)
