"""What the trainer asks of a pipeline: embedded text, noise predictions and latents.

They are those of the pipeline's own call, bit for bit. Only the encoding of pictures is under
``no_grad``: gradients pass through the denoiser and the text encoders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
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
    """A text-to-image pipeline as the trainer sees it; made by ``backbone_of``.

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


@contextmanager
def _float32(model: Any) -> Iterator[None]:
    """A float16 model in float32, and back to the bits that it had."""
    model.float()
    try:
        yield
    finally:
        model.half()
