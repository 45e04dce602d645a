"""Textual inversion as the usual example script has it, to measure the trainer against.

A short form of ``examples/textual_inversion/textual_inversion.py`` of diffusers: the new word is a
row of the text encoder's table, the whole table is a parameter of AdamW, its other rows are put
back after each step, and each step encodes its pictures. The script's data loader and trackers are
left out, and its pictures are kept decoded, all of which would take time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class PlainInversion:
    """A word of one vector that is trained by ``step``.

    Args:
        pipe: pipeline of Stable Diffusion 1, whose VAE and UNet are frozen; in half precision the
            text encoder is in float32 under autocast, as in the script.
        token: the word, which the tokenizer must not know.
        row: its vector at the start, ``(width,)``.
        rate: learning rate.

    Attributes:
        table: the token embeddings, with the new row at the end.
    """

    def __init__(self, pipe: Any, token: str, row: Tensor, rate: float = 5e-4) -> None:
        self._vae, self._unet = (part.requires_grad_(False) for part in (pipe.vae, pipe.unet))
        self._scheduler = pipe.scheduler
        self._tokenizer = copy.deepcopy(pipe.tokenizer)
        self._tokenizer.add_tokens([token])
        self._encoder = copy.deepcopy(pipe.text_encoder).float().requires_grad_(False)
        self._encoder.resize_token_embeddings(len(self._tokenizer), mean_resizing=False)
        self.table = self._encoder.get_input_embeddings().weight.requires_grad_(True)
        with torch.no_grad():
            self.table[-1] = row
        self._start = self.table.detach().clone()
        self._frozen = torch.ones(len(self.table), dtype=torch.bool, device=self.table.device)
        self._frozen[-1] = False
        self._optimizer = torch.optim.AdamW([self.table], lr=rate, weight_decay=0.0)
        half = self._unet.dtype if self._unet.dtype != torch.float32 else None
        self._autocast = {"device_type": pipe.device.type, "dtype": half, "enabled": bool(half)}
        self._scaler = torch.amp.GradScaler(pipe.device.type, enabled=half == torch.float16)

    def loss(self, pixels: Tensor, prompts: Sequence[str], generator: torch.Generator) -> Tensor:
        """Mean square error of pictures ``(B, 3, height, width)`` in [-1, 1] with B prompts.

        The posterior's noise, the noise and the timesteps are drawn on the CPU, in this order.
        """
        vae, unet = self._vae, self._unet
        with torch.no_grad():
            posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
        latents = posterior.sample(generator) * vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        levels = self._scheduler.config.num_train_timesteps
        timesteps = torch.randint(levels, (len(latents),), generator=generator).to(latents.device)
        noisy = self._scheduler.add_noise(latents, noise, timesteps)
        ids = self._tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self._tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        with torch.autocast(**self._autocast):
            text = self._encoder(ids.to(latents.device))[0].to(unet.dtype)
            predicted = unet(noisy, timesteps, encoder_hidden_states=text, return_dict=False)[0]
        return F.mse_loss(predicted.float(), noise.float())

    def step(self, pixels: Tensor, prompts: Sequence[str], generator: torch.Generator) -> None:
        """One step of AdamW, which leaves the other rows of the table as they were."""
        self._scaler.scale(self.loss(pixels, prompts, generator)).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        with torch.no_grad():
            self.table[self._frozen] = self._start[self._frozen]
