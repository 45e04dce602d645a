"""What the trainer asks of a pipeline: embedded text, noise predictions and latents.

They are those of the pipeline's own call, bit for bit. Stable Diffusion 1 and 2, XL, 3, and FLUX.1
differ here alone. Only the encoding of pictures is under ``no_grad``: gradients pass through the
denoiser and the text encoders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import (
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor

from personalize.core.method import Sizes


@dataclass(frozen=True)
class Conditioning:
    """Embedded prompts.

    Attributes:
        embeds: of each token, ``(B, tokens, width)``.
        pooled: of each prompt as a whole, ``(B, width)``; None for Stable Diffusion 1 and 2.
    """

    embeds: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True)
class TextEncoder:
    """A CLIP text encoder of a pipeline, one that can learn words.

    Attributes:
        name: of the model in the pipeline, ``text_encoder`` or ``text_encoder_2``.
        key: under which files hold its embeddings, ``clip_l`` or ``clip_g``.
    """

    pipe: Any
    name: str
    key: str

    @property
    def model(self) -> Any:
        return getattr(self.pipe, self.name)

    @property
    def tokenizer(self) -> Any:
        return getattr(self.pipe, self.tokenizer_name)

    @property
    def tokenizer_name(self) -> str:
        return self.name.replace("text_encoder", "tokenizer")

    @property
    def table(self) -> Tensor:
        """The token embeddings ``(rows, width)``."""
        return self.model.get_input_embeddings().weight.detach()


class Backbone:
    """A text-to-image pipeline as the trainer sees it; made by ``Backbone.of``.

    Attributes:
        pipe: the pipeline.
        text_encoders: its CLIP text encoders, in order.
    """

    encoder_names: ClassVar[tuple[str, ...]] = ("text_encoder",)

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.text_encoders = tuple(
            TextEncoder(pipe, name, key)
            for name, key in zip(self.encoder_names, ("clip_l", "clip_g"), strict=False)
        )

    @staticmethod
    def of(pipe: Any) -> Backbone:
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

    @property
    def denoiser(self) -> Any:
        """The network that predicts."""
        return self.pipe.unet

    @property
    def frozen_text_encoders(self) -> tuple[Any, ...]:
        """The text encoders that learn no words: T5."""
        names = {"text_encoder", "text_encoder_2", "text_encoder_3"} - {*self.encoder_names}
        others = (getattr(self.pipe, name, None) for name in sorted(names))
        return tuple(encoder for encoder in others if encoder is not None)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents that the denoiser takes."""
        return int(self.denoiser.config.in_channels)

    @property
    def resolution(self) -> int:
        """Side in pixels of the pictures that the pipeline draws if nothing else is said."""
        size = getattr(self.pipe, "default_sample_size", None) or self.denoiser.config.sample_size
        return int(size * self.pipe.vae_scale_factor)

    @property
    def grain(self) -> int:
        """Pixels that sides of pictures must be a multiple of."""
        return int(self.pipe.vae_scale_factor)

    def encode(self, prompts: Sequence[str], clip_skip: int | None = None) -> Conditioning:
        """Prompts as the pipeline embeds them, with a graph.

        Args:
            prompts: B texts.
            clip_skip: layers of CLIP to leave out at the end, as in the pipeline's call.

        Raises:
            ValueError: FLUX has no ``clip_skip``.
        """
        raise NotImplementedError

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        sizes: Sequence[Sizes] | None = None,
    ) -> Tensor:
        """What the denoiser says of noisy latents, in its own space and dtype.

        Args:
            noisy: ``(B, channels, height, width)``.
            timesteps: ``(B,)`` in the units of the scheduler.
            conditioning: of B prompts.
            sizes: micro-conditioning of Stable Diffusion XL, ignored by the others; None for what
                the pipeline's own call says of pictures of this size.

        Returns:
            The prediction, in the shape of ``noisy``.
        """
        dtype = self.denoiser.dtype
        pooled = conditioning.pooled
        conditioning = Conditioning(
            conditioning.embeds.to(dtype), None if pooled is None else pooled.to(dtype)
        )
        return self._predict(noisy.to(dtype), timesteps, conditioning, sizes)

    def _predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: Conditioning,
        sizes: Sequence[Sizes] | None,
    ) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of pictures, scaled for the denoiser.

        Args:
            pixels: ``(B, 3, height, width)`` in [-1, 1].

        Returns:
            Two tensors ``(B, channels, height, width)`` of the latents in float32, or in float64 if
            the VAE is. A float16 VAE that overflows (``force_upcast``) works in float32.
        """
        vae = self.pipe.vae
        overflows = vae.dtype == torch.float16 and vae.config.get("force_upcast")
        with _float32(vae) if overflows else nullcontext():
            posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
        wide = torch.promote_types(posterior.mean.dtype, torch.float32)
        shift = vae.config.get("latents_mean") or vae.config.get("shift_factor") or 0.0
        spread = vae.config.get("latents_std") or 1.0
        like: dict[str, Any] = {"dtype": wide, "device": posterior.mean.device}
        factor = vae.config.scaling_factor / torch.tensor(spread, **like).view(-1, 1, 1)
        mean = posterior.mean.to(wide) - torch.tensor(shift, **like).view(-1, 1, 1)
        return mean * factor, posterior.std.to(wide) * factor


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
def _float32(model: Any) -> Iterator[None]:
    """A float16 model in float32, and back to the bits that it had."""
    model.float()
    try:
        yield
    finally:
        model.half()


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
