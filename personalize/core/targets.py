"""Noisy latents, and what the denoiser should say of them.

A noisy latent is ``z = alpha x0 + sigma eps``. Variance preserving models have
``alpha^2 + sigma^2 = 1`` and are trained on eps, on x0 or on ``v = alpha eps - sigma x0`` (Salimans
and Ho 2022, arXiv 2202.00512); flow models have ``alpha = 1 - sigma`` and ``v = eps - x0`` (Liu et
al. 2022, arXiv 2209.03003).

Min-SNR weights: "Efficient Diffusion Training via Min-SNR Weighting Strategy", Tiankai Hang,
Shuyang Gu, Chen Li, Jianmin Bao, Dong Chen, Han Hu, Xin Geng and Baining Guo, 2023, arXiv
2303.09556, section 3.4: ``min(SNR, gamma)`` on the error of x0, turned into the error of what the
model predicts. For flow models, which the paper does not have, the same conversion is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guidance.core.clock import prediction_type


@dataclass(frozen=True)
class Noising:
    """The noise levels that a model was trained with, the cleanest first.

    Attributes:
        alphas, sigmas: ``(T,)`` float32.
        timesteps: ``(T,)`` as the denoiser takes them.
        prediction_type: ``epsilon``, ``sample``, ``v_prediction`` or ``flow_prediction``.
    """

    alphas: Tensor
    sigmas: Tensor
    timesteps: Tensor
    prediction_type: str

    @staticmethod
    def of(scheduler: Any) -> Noising:
        """The training levels of a scheduler, however it is set for sampling.

        Raises:
            ValueError: a scheduler whose training levels are unknown.
        """
        config, kind = scheduler.config, prediction_type(scheduler)
        if kind == "flow_prediction":
            levels = torch.arange(1, config.num_train_timesteps + 1, dtype=torch.float64)
            sigmas = levels / config.num_train_timesteps
            if not config.get("use_dynamic_shifting"):
                shift = getattr(scheduler, "shift", config.get("flow_shift", 1.0))
                sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
            times = sigmas * config.num_train_timesteps
            return Noising((1 - sigmas).float(), sigmas.float(), times.float(), kind)
        if not hasattr(scheduler, "alphas_cumprod"):
            raise ValueError(
                f"{type(scheduler).__name__} has no training noise levels: expected alphas_cumprod "
                "or a flow matching scheduler; set the scheduler that the model came with"
            )
        signal = scheduler.alphas_cumprod.double().cpu()
        return Noising(
            signal.sqrt().float(), (1 - signal).sqrt().float(), torch.arange(len(signal)), kind
        )

    def band(self, low: int, high: int) -> tuple[int, int]:
        """Range of levels, the last one not included, for a range in thousandths."""
        first = low * len(self.timesteps) // 1000
        return first, max(first + 1, high * len(self.timesteps) // 1000)

    def noisy(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """``alpha x0 + sigma eps`` at levels ``(B,)``."""
        alpha, sigma = self._of(levels, latents)
        return alpha * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """What the model should predict at levels ``(B,)``."""
        match self.prediction_type:
            case "epsilon":
                return noise
            case "sample":
                return latents
            case "v_prediction":
                alpha, sigma = self._of(levels, latents)
                return alpha * noise - sigma * latents
            case _:
                return noise - latents

    def weights(self, levels: Tensor, gamma: float | None) -> Tensor:
        """Min-SNR weights of the model's own error ``(B,)``; 1 without gamma."""
        if gamma is None:
            return torch.ones(len(levels))
        alpha, sigma = self.alphas[levels], self.sigmas[levels]
        snr = (alpha / sigma).square()
        match self.prediction_type:
            case "epsilon":
                return (gamma / snr).clamp(max=1.0)
            case "sample":
                return snr.clamp(max=gamma)
            case _:
                return snr.clamp(max=gamma) * sigma.square()

    def _of(self, levels: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (like.ndim - 1))
        return (
            self.alphas[levels].view(shape).to(like.device),
            self.sigmas[levels].view(shape).to(like.device),
        )
