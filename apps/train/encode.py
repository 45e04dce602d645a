"""Real pictures as what a denoiser works on: latents of a VAE, or pixels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from apps.evaluate.pictures.images import BadPicture, read_picture
from guidance.core.prediction import COND, Step


class Encode:
    """Latents of picture files, shaped like the predictions of a step.

    Pictures are scaled to the size that the pipeline draws, and cropped at the centre.

    Args:
        pipe: pipeline with a VAE, or one of pixels. A VAE in half precision is copied to float32.
    """

    def __init__(self, pipe: Any) -> None:
        self._name = type(pipe).__name__
        vae = getattr(pipe, "vae", None)
        if vae is not None and vae.dtype != torch.float32:
            vae = copy.deepcopy(vae).float()
        self._vae: Any = vae
        self._factor = 1 if vae is None else _pixels_of_latent(pipe)

    @torch.no_grad()
    def __call__(
        self, paths: Sequence[Path], generators: Sequence[torch.Generator], step: Step
    ) -> Tensor:
        """Latents ``(B, C, H, W)`` in float32, each drawn from its posterior by its generator.

        Raises:
            ValueError: the model works on something else, or a picture cannot be read.
        """
        like = step.evaluate(COND)
        if like.ndim != 4:
            raise ValueError(
                f"{self._name} predicts tensors of shape {tuple(like.shape)}; expected shape "
                "(batch, channels, height, width): of packed latents and videos nothing is learned"
            )
        height, width = (self._factor * side for side in like.shape[2:])
        pixels = torch.stack([_pixels(path, (width, height)) for path in paths]).to(like.device)
        latents = pixels if self._vae is None else self._latents(pixels, generators)
        if latents.shape != like.shape:
            raise ValueError(
                f"{self._name} predicts shape {tuple(like.shape)}, and pictures are encoded as "
                f"{tuple(latents.shape)}: it changes its latents in a way that is not known here"
            )
        return latents

    def _latents(self, pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """What the VAE makes of pictures in ``[-1, 1]``, scaled as its config says."""
        encoded = self._vae.encode(pixels)
        posterior = getattr(encoded, "latent_dist", None)
        if posterior is None:
            latents = encoded[0]
        else:
            mean, std = posterior.mean, posterior.std
            eps = torch.stack([torch.randn(mean.shape[1:], generator=g) for g in generators])
            latents = mean + std * eps.to(mean.device)
        config = self._vae.config
        shift = torch.tensor(config.get("latents_mean") or config.get("shift_factor") or 0.0)
        spread = torch.tensor(config.get("latents_std") or 1.0)
        shift, spread = (each.view(-1, 1, 1).to(latents) for each in (shift, spread))
        return (latents - shift) / spread * (config.get("scaling_factor") or 1.0)


def _pixels_of_latent(pipe: Any) -> int:
    """How many pixels a latent is wide."""
    own = getattr(pipe, "vae_scale_factor", None)
    return int(own or 2 ** (len(pipe.vae.config.block_out_channels) - 1))


def _pixels(path: Path, size: tuple[int, int]) -> Tensor:
    """A picture file as ``(3, height, width)`` in ``[-1, 1]``."""
    try:
        image = read_picture(path)
    except BadPicture as reason:
        raise ValueError(
            f"cannot read picture {str(path)!r}: {reason}; repair or remove it"
        ) from reason
    if image.size != size:
        image = ImageOps.fit(image, size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
