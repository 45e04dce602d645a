"""The pipelines that can be trained: Stable Diffusion 1 and 2, XL, 3, and FLUX.1.

They differ in how they embed prompts and call their denoiser, and here alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from diffusers import (
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor

from personalize.core.backbone import Backbone, Conditioning
from personalize.core.method import Sizes


def backbone_of(pipe: Any) -> Backbone:
    """The backbone of a pipeline.

    Raises:
        ValueError: a pipeline of another class, without one of its parts, or whose denoiser
            expects more than noise, time and text.
    """
    kind = next((kind for cls, kind in _KINDS.items() if isinstance(pipe, cls)), None)
    if kind is None:
        names = ", ".join(cls.__name__ for cls in _KINDS)
        raise ValueError(
            f"{type(pipe).__name__} cannot be trained: expected one of {names}; another "
            "pipeline of these models becomes one by StableDiffusionPipeline.from_pipe(pipe)"
        )
    for name in ("vae", *kind.encoder_names):
        if getattr(pipe, name) is None:
            raise ValueError(
                f"{type(pipe).__name__} cannot be trained without its {name}, which is None; "
                "load the pipeline with it"
            )
    backbone = kind(pipe)
    expected, found = backbone.latent_channels, pipe.vae.config.latent_channels
    distilled = getattr(backbone.denoiser.config, "time_cond_proj_dim", None)
    if expected != found:
        raise ValueError(
            f"{type(pipe).__name__} cannot be trained: its denoiser takes {expected} channels "
            f"and its VAE gives {found}, as models of inpainting or editing do"
        )
    if distilled is not None:
        raise ValueError(
            f"{type(pipe).__name__} cannot be trained: its UNet (time_cond_proj_dim) is "
            "distilled for a few steps; train on the model that it was made from"
        )
    return backbone


class _StableDiffusion(Backbone):
    """Stable Diffusion 1 and 2."""

    def encode(self, prompts: Sequence[str], clip_skip: int | None = None) -> Conditioning:
        with _text_model(self.pipe.text_encoder):
            embeds, _ = self.pipe.encode_prompt(
                list(prompts), self.pipe._execution_device, 1, False, clip_skip=clip_skip
            )
        return Conditioning(embeds)

    def _predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        sizes: Sequence[Sizes] | None,
    ) -> Tensor:
        return self.pipe.unet(
            noisy, timesteps, encoder_hidden_states=conditioning.embeds, return_dict=False
        )[0]


class _StableDiffusionXL(Backbone):
    """Stable Diffusion XL."""

    encoder_names = ("text_encoder", "text_encoder_2")

    def encode(self, prompts: Sequence[str], clip_skip: int | None = None) -> Conditioning:
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, clip_skip=clip_skip
        )
        return Conditioning(embeds, pooled)

    def _predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        sizes: Sequence[Sizes] | None,
    ) -> Tensor:
        scale = self.pipe.vae_scale_factor
        whole = (noisy.shape[-2] * scale, noisy.shape[-1] * scale)
        rows = sizes or [Sizes(whole, (0, 0), whole)] * len(noisy)
        ids = [[*size.original, *size.crop, *size.target] for size in rows]
        return self.pipe.unet(
            noisy,
            timesteps,
            encoder_hidden_states=conditioning.embeds,
            added_cond_kwargs={
                "text_embeds": conditioning.pooled,
                "time_ids": torch.tensor(ids, dtype=noisy.dtype, device=noisy.device),
            },
            return_dict=False,
        )[0]


class _StableDiffusion3(Backbone):
    """Stable Diffusion 3 and 3.5, with or without T5."""

    encoder_names = ("text_encoder", "text_encoder_2")

    @property
    def grain(self) -> int:
        return int(self.pipe.vae_scale_factor * self.pipe.patch_size)

    @property
    def denoiser(self) -> Any:
        return self.pipe.transformer

    def encode(self, prompts: Sequence[str], clip_skip: int | None = None) -> Conditioning:
        texts = list(prompts)
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            texts, texts, texts, do_classifier_free_guidance=False, clip_skip=clip_skip
        )
        return Conditioning(embeds, pooled)

    def _predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        sizes: Sequence[Sizes] | None,
    ) -> Tensor:
        return self.pipe.transformer(
            hidden_states=noisy,
            timestep=timesteps,
            encoder_hidden_states=conditioning.embeds,
            pooled_projections=conditioning.pooled,
            return_dict=False,
        )[0]


class _Flux(Backbone):
    """FLUX.1, whose CLIP gives the pooled embedding alone.

    A distilled guidance scale is that of the pipeline's call, 3.5: what is learned is made for it.
    """

    guidance: ClassVar[float] = 3.5

    @property
    def denoiser(self) -> Any:
        return self.pipe.transformer

    @property
    def latent_channels(self) -> int:
        return int(self.denoiser.config.in_channels) // 4

    @property
    def grain(self) -> int:
        return int(self.pipe.vae_scale_factor * 2)

    def encode(self, prompts: Sequence[str], clip_skip: int | None = None) -> Conditioning:
        if clip_skip is not None:
            raise ValueError(
                f"clip_skip must be None for FLUX, which has no such setting, found {clip_skip!r}"
            )
        embeds, pooled, _ = self.pipe.encode_prompt(list(prompts))
        return Conditioning(embeds, pooled)

    def _predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        sizes: Sequence[Sizes] | None,
    ) -> Tensor:
        pipe, (rows, channels, height, width) = self.pipe, noisy.shape
        guidance = None
        if self.denoiser.config.guidance_embeds:
            guidance = torch.full((rows,), self.guidance, device=noisy.device)
        like: dict[str, Any] = {"device": noisy.device, "dtype": noisy.dtype}
        packed = self.denoiser(
            hidden_states=pipe._pack_latents(noisy, rows, channels, height, width),
            timestep=timesteps.to(noisy.dtype) / 1000,
            guidance=guidance,
            pooled_projections=conditioning.pooled,
            encoder_hidden_states=conditioning.embeds,
            txt_ids=torch.zeros((conditioning.embeds.shape[1], 3), **like),
            img_ids=pipe._prepare_latent_image_ids(
                rows, height // 2, width // 2, noisy.device, noisy.dtype
            ),
            return_dict=False,
        )[0]
        scale = pipe.vae_scale_factor
        return pipe._unpack_latents(packed, height * scale, width * scale, scale)


_KINDS: dict[type, type[Backbone]] = {
    StableDiffusionPipeline: _StableDiffusion,
    StableDiffusionXLPipeline: _StableDiffusionXL,
    StableDiffusion3Pipeline: _StableDiffusion3,
    FluxPipeline: _Flux,
}


@contextmanager
def _text_model(encoder: Any) -> Iterator[None]:
    """Let diffusers find the layer norm of a text encoder that is its own text model.

    Its clip_skip looks for ``text_model``, which CLIPTextModel has no more since transformers 5.
    """
    missing = not hasattr(encoder, "text_model")
    if missing:
        object.__setattr__(encoder, "text_model", encoder)
    try:
        yield
    finally:
        if missing:
            object.__delattr__(encoder, "text_model")
