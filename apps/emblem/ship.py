"""Trained Emblem models as the folders that diffusers and transformers load."""

import json
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    ResNetForImageClassification,
)
from transformers.utils import logging

from apps.emblem.models import build_silent_t5
from apps.emblem.render import SIZE


def text_towers(clip: Path) -> tuple[CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer]:
    """The text tower of a saved CLIP, without and with its projection, and the tokenizer."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        plain = CLIPTextModel.from_pretrained(clip)
        projected = CLIPTextModelWithProjection.from_pretrained(clip)
    finally:
        logging.set_verbosity(verbosity)
    return plain, projected, CLIPTokenizer.from_pretrained(clip)


def scaled(vae: AutoencoderKL, factor: float) -> AutoencoderKL:
    """The autoencoder with its latents' scaling factor in the config."""
    vae.register_to_config(scaling_factor=factor, shift_factor=0.0)
    return vae


def _load_as_float32(directory: Path) -> None:
    """Make a half-precision transformers folder load in float32 unless told otherwise.

    diffusers loads its own models so, transformers in the precision of the file; mixed, plain
    ``from_pretrained`` would give a pipeline that cannot run.
    """
    config = _config(directory)
    _write_config(directory, config | {"dtype": "float32"})


def _forget_origin(directory: Path) -> None:
    """Drop the path that a diffusers model was loaded from, which would be saved along."""
    config = _config(directory)
    config.pop("_name_or_path", None)
    _write_config(directory, config)


def _config(directory: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return config


def _write_config(directory: Path, config: dict[str, Any]) -> None:
    text = json.dumps(config, indent=2) + "\n"
    (directory / "config.json").write_text(text, encoding="utf-8")


def _save_preprocessor(directory: Path) -> None:
    """Pictures of the world's size go in unresized, in [-1, 1]."""
    CLIPImageProcessorPil(
        size={"height": SIZE, "width": SIZE},
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(directory)


def _forget_calls(tokenizer: PreTrainedTokenizerFast) -> None:
    """Drop the padding and truncation of the last call, which would be saved along."""
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()


def ship_clip(clip: CLIPModel, tokenizer: CLIPTokenizer, directory: Path) -> None:
    """Write emblem-clip in half precision."""
    clip.half().save_pretrained(directory)
    _forget_calls(tokenizer)
    tokenizer.save_pretrained(directory)
    _save_preprocessor(directory)
    _load_as_float32(directory)


def ship_classifier(classifier: ResNetForImageClassification, directory: Path) -> None:
    """Write emblem-classifier in half precision."""
    classifier.half().save_pretrained(directory)
    _save_preprocessor(directory)
    _load_as_float32(directory)


def unet_pipeline(
    unet: UNet2DConditionModel, vae: AutoencoderKL, clip: Path
) -> StableDiffusionPipeline:
    """A StableDiffusionPipeline with SD1.5's noise schedule.

    The scheduler is DDIM where SD1.5 ships PNDM. At 25 steps PNDM loses the prompt on this model
    from about scale 4, where DDIM, Euler and DPM++ keep it.
    """
    text_encoder, _, tokenizer = text_towers(clip)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def dit_pipeline(
    dit: SD3Transformer2DModel, vae: AutoencoderKL, clip: Path
) -> StableDiffusion3Pipeline:
    """A StableDiffusion3Pipeline: both CLIP encoders are the text tower, T5 is silent."""
    _, text_encoder, tokenizer = text_towers(clip)
    t5, t5_tokenizer = build_silent_t5()
    return StableDiffusion3Pipeline(
        transformer=dit,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder,
        tokenizer_2=tokenizer,
        text_encoder_3=t5,
        tokenizer_3=t5_tokenizer,
    )


def ship_pipeline(pipe: DiffusionPipeline, directory: Path) -> None:
    """Write a pipeline in half precision; it loads in float32 unless told otherwise."""
    for component in pipe.components.values():
        if isinstance(component, nn.Module):
            component.half()
        elif isinstance(component, PreTrainedTokenizerFast):
            _forget_calls(component)
    pipe.save_pretrained(directory)
    for name in pipe.components:
        if name.startswith("text_encoder"):
            _load_as_float32(directory / name)
    _forget_origin(directory / "vae")
