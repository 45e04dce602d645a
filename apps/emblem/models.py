"""Architectures of the Emblem models, all of them ordinary diffusers and transformers classes."""

import json
import string

from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from apps.emblem.render import SIZE
from apps.emblem.score import HEADS
from apps.emblem.world import ALL_SHAPES, ALL_TEXTURES, COLOURS, SIZES, STYLES

WIDTH = 96
MAX_TOKENS = 32
LATENT_SIZE = SIZE // 8


def build_vae() -> AutoencoderKL:
    """Autoencoder from 3 x 64 x 64 pictures to 4 x 8 x 8 latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
    )


def build_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE in which every word of the world is one token and any text has tokens."""
    words = sorted(
        {*ALL_SHAPES, *COLOURS, *ALL_TEXTURES, *SIZES, *STYLES}
        | {"a", "an", "on", "the", "and", "left", "right", "background"}
    )
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(words, trainer)
    learned = bpe.get_vocab()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [tuple(pair) for pair in _merges(bpe)]
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokens += [
        token for token in sorted(learned, key=learned.__getitem__) if token not in set(tokens)
    ]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        model_max_length=MAX_TOKENS,
    )


def _merges(bpe: Tokenizer) -> list[list[str]]:
    pairs = json.loads(bpe.to_str())["model"]["merges"]
    return [pair if isinstance(pair, list) else pair.split(" ") for pair in pairs]


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """CLIP over pictures of 64 px and captions of the world."""
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "projection_dim": WIDTH,
        "hidden_act": "gelu",
        **ids,
    }
    vision = {
        "image_size": SIZE,
        "patch_size": 8,
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "projection_dim": WIDTH,
        "hidden_act": "gelu",
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH, **ids)
    return CLIPModel(config)


def build_unet() -> UNet2DConditionModel:
    """UNet over 4 x 8 x 8 latents, cross-attention with 4 heads at both levels."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(48, 96),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
        norm_num_groups=16,
    )


def build_dit() -> SD3Transformer2DModel:
    """MM-DiT over 4 x 8 x 8 latents: 6 layers, 6 heads."""
    return SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=6,
        num_attention_heads=6,
        attention_head_dim=16,
        caption_projection_dim=96,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=LATENT_SIZE,
    )


def build_silent_t5() -> tuple[T5EncoderModel, T5Tokenizer]:
    """A one-layer T5 whose output is exactly zero, and a tokenizer of letters.

    StableDiffusion3Pipeline stands zeros in for an absent T5, but ``from_pretrained`` asks for one;
    this one makes the folder load as it is and says nothing.
    """
    letters = [(letter, -3.0) for letter in string.ascii_lowercase]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    tokenizer = T5Tokenizer(vocab=special + letters, extra_ids=0, model_max_length=MAX_TOKENS)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=2 * WIDTH, d_kv=8, d_ff=8, num_layers=1, num_heads=1
    )
    encoder = T5EncoderModel(config)
    nn.init.zeros_(encoder.encoder.final_layer_norm.weight)
    return encoder, tokenizer


def build_classifier() -> ResNetForImageClassification:
    """Scorer: one ResNet whose labels are the classes of all heads side by side."""
    names = [f"{head}={value}" for head, values in HEADS.items() for value in values]
    config = ResNetConfig(
        embedding_size=36,
        hidden_sizes=[36, 72, 112, 176],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    return ResNetForImageClassification(config)
