"""Scorers of pictures, such as CLIP, on decoded predictions of x0: exact, and slow."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from guidance.core.prediction import Step, wide
from guidance.core.schedule import check_number
from guidance.evaluators.protocol import Prompts

Decode = Callable[[Tensor], Tensor]
Scorer = Callable[[Tensor, Prompts], Tensor]


@dataclass(frozen=True, repr=False)
class Decoded:
    """Scores by what pictures look like, at the cost of decoding every candidate.

    Args:
        scorer: function of pictures ``(n, 3, height, width)`` in ``[0, 1]``, float32, and their
            prompts, which returns ``(n,)``, larger for better.
        decode: a VAE, a pipeline that has one, or a function from x0 to such pictures, which models
            of packed latents (FLUX) need; None for models of pixels in ``[-1, 1]``. A VAE in half
            precision is copied to float32.
        chunk: most pictures to decode at once.

    Raises:
        TypeError, ValueError: a setting is not of its kind; in a run, latents that are no pictures.
    """

    scorer: Scorer
    decode: Any
    chunk: int = 4
    _decode: Decode = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not callable(self.scorer):
            raise TypeError(
                "Decoded: scorer must be a function of pictures and prompts, found "
                f"{type(self.scorer).__name__}"
            )
        if check_number("Decoded", "chunk", self.chunk, 1) % 1:
            raise ValueError(f"Decoded: chunk must be whole, found {self.chunk}")
        object.__setattr__(self, "_decode", decoder(self.decode))

    def score(self, x0: Tensor, step: Step, prompts: Prompts) -> Tensor:
        """What the scorer says of the decoded pictures, ``(B,)``."""
        parts = []
        for start in range(0, len(x0), int(self.chunk)):
            rows = slice(start, start + int(self.chunk))
            pictures = self._decode(wide(x0[rows])).float().clamp(0, 1)
            parts.append(self.scorer(pictures, None if prompts is None else prompts[rows]))
        return torch.cat(parts)

    def __repr__(self) -> str:
        return f"Decoded(scorer=<{_name(self.scorer)}>, decode=<{_name(self.decode)}>)"


def decoder(decode: Any) -> Decode:
    """The function from x0 to pictures in ``[0, 1]``."""
    vae = getattr(decode, "vae", decode)
    if vae is None:
        return _as_picture
    if isinstance(vae, nn.Module) and hasattr(vae, "decode"):
        return _of_vae(vae)
    if callable(decode):
        return decode
    raise TypeError(
        f"Decoded: decode must be a VAE, a pipeline with one, a function or None, found "
        f"{type(decode).__name__}"
    )


def _of_vae(vae: Any) -> Decode:
    """Decoding by a VAE, whose config says how its latents were scaled for the denoiser."""
    if vae.dtype != torch.float32:
        vae = copy.deepcopy(vae).float()
    config = vae.config
    mean = torch.tensor(config.get("latents_mean") or config.get("shift_factor") or 0.0)
    spread = torch.tensor(config.get("latents_std") or 1.0) / (config.get("scaling_factor") or 1.0)
    mean, spread = mean.view(-1, 1, 1), spread.view(-1, 1, 1)

    def decode(x0: Tensor) -> Tensor:
        if x0.ndim != 4:
            raise ValueError(
                f"Decoded: a VAE takes latents (B, channels, height, width), found shape "
                f"{tuple(x0.shape)}; give decode a function that unpacks them"
            )
        latents = x0.float() * spread.to(x0.device) + mean.to(x0.device)
        return _as_picture(vae.decode(latents, return_dict=False)[0])

    return decode


def _as_picture(pixels: Tensor) -> Tensor:
    return pixels / 2 + 0.5


def _name(item: Any) -> str:
    return getattr(item, "__name__", type(item).__name__)
