"""Which models a trained evaluator belongs to: its latents, its denoiser, its text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from guidance.core.fingerprint import fingerprint, from_text, matches, to_text
from guidance.core.text import text_features
from guidance.evaluators.files import EvaluatorConfig

_PROBE = "red fox, 2 owls"
_TOLERANCE = 0.05
"""Relative distance of the probe's features; half precision stays below, other encoders do not."""


def space_of(pipe: Any) -> dict[str, Any]:
    """What the latents of a pipeline are: those of an encoder and its scaling, or pixels.

    VAEs that share their encoder and differ in the decoder share their latents.

    Raises:
        ValueError: there is no VAE, and no denoiser that says how many channels pixels have.
    """
    vae = getattr(pipe, "vae", None)
    if vae is None:
        denoiser = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
        channels = getattr(getattr(denoiser, "config", None), "in_channels", None)
        if channels is None:
            raise ValueError(
                f"{type(pipe).__name__} has no VAE and no unet or transformer of pixels: what "
                "its evaluators would judge is unknown"
            )
        return {"pixels": channels}
    config = vae.config
    mean, std = (config.get(name) for name in ("latents_mean", "latents_std"))
    return {
        "class": type(vae).__name__,
        "channels": config.get("latent_channels") or config.get("z_dim"),
        "scaling_factor": config.get("scaling_factor") or 1.0,
        "shift_factor": config.get("shift_factor") or 0.0,
        "latents_mean": None if mean is None else list(mean),
        "latents_std": None if std is None else list(std),
        "weights": fingerprint(
            vae, lambda name: not name.startswith(("decoder.", "post_quant_conv."))
        ),
    }


def denoiser_of(model: nn.Module) -> dict[str, Any]:
    """Which denoiser this is."""
    model = getattr(model, "_orig_mod", model)
    return {"class": type(model).__name__, "weights": fingerprint(model)}


def text_encoder_of(pipe: Any) -> dict[str, Any]:
    """Which text features a pipeline has: those of one sentence.

    Raises:
        ValueError: the pipeline reads no text.
    """
    features = to_text(text_features(pipe, [_PROBE])[0])
    return {"class": type(pipe.text_encoder).__name__, "features": features}


def check_origin(config: EvaluatorConfig, pipe: Any, denoiser: nn.Module, what: str) -> None:
    """Raise ValueError unless an evaluator was trained for these models; ``what`` names it."""
    if pipe is None:
        raise ValueError(
            f"{what} cannot be checked against a bare denoiser: guide the pipeline instead, whose "
            "VAE says what its latents are"
        )
    if config.denoiser is not None:
        found = denoiser_of(denoiser)
        if found["class"] != config.denoiser["class"]:
            _refuse(what, "denoiser", config.denoiser["class"], found["class"])
        if not matches(found["weights"], config.denoiser["weights"]):
            _refuse(what, "denoiser", "the weights that it knows", "others")
    _same_space(config.space, space_of(pipe), what)
    if config.text_encoder is not None:
        found = text_encoder_of(pipe)
        # Not the class: models of one text tower, with and without a projection, read alike.
        known, here = (from_text(each["features"]) for each in (config.text_encoder, found))
        if known.shape != here.shape:
            _refuse(what, "text encoder", f"{len(known)} features", str(len(here)))
        distance = float(torch.dist(here, known) / known.norm())
        if not distance <= _TOLERANCE:
            _refuse(what, "text encoder", "its features of a sentence", f"others by {distance:.0%}")


def _same_space(known: Mapping[str, Any], found: Mapping[str, Any], what: str) -> None:
    for name in known.keys() | found.keys():
        one, other = known.get(name), found.get(name)
        if name == "weights" and one and other:
            if not matches(one, other):
                _refuse(what, "VAE", "the encoder weights that it knows", "others")
        elif one != other:
            _refuse(what, "VAE", f"{name} {one}", str(other))


def _refuse(what: str, part: str, expected: str, found: str) -> None:
    raise ValueError(
        f"{what} was trained for another {part}: expected {expected}, found {found}; train one for "
        "this model by `diffusteer train evaluator`"
    )
