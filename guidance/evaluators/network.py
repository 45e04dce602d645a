"""Small networks that judge latents: ConvNeXt-like blocks which know the noise level.

Blocks follow "A ConvNet for the 2020s", Liu et al. 2022, arXiv 2201.03545, with convolutions of
3 x 3 in place of 7 x 7 and channels doubled in place of quadrupled; what is known beside the
picture scales and shifts them as in "FiLM", Perez et al. 2017, arXiv 1709.07871.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import ceil, log2, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST_PARAMETERS = 1_000_000

_LEVELS = 8.0
"""Bound of ``log(sigma / alpha)``; beyond it a picture is data or noise alone."""

_WAVES = 8
_GRID = 16
"""Longest side that the blocks see; larger latents are halved until they fit."""

_LIMITS = {
    "channels": (1, 256),
    "outputs": (1, 4096),
    "text": (0, 32768),
    "width": (4, 512),
    "depth": (1, 32),
}


@dataclass(frozen=True)
class NetworkSettings:
    """Shape of an evaluator's network.

    Args:
        channels: of the latents or pixels.
        outputs: numbers for each picture: classes, 1 for a score, width of an embedding.
        size: height and width of the latents, which are then the only ones it takes and are halved
            until at most 16 are left; None for any size, all of them seen as they are.
        text: width of the text features; 0 for a network that reads no text.
        width: channels of the blocks.
        depth: number of blocks.

    Raises:
        TypeError, ValueError: a number is not whole or out of range.
    """

    channels: int
    outputs: int
    size: tuple[int, int] | None = None
    text: int = 0
    width: int = 96
    depth: int = 4

    def __post_init__(self) -> None:
        numbers = {name: getattr(self, name) for name in _LIMITS}
        limits = dict(_LIMITS)
        if self.size is not None:
            if not isinstance(self.size, list | tuple) or len(self.size) != 2:
                raise TypeError(f"network: size must be (height, width), found {self.size!r:.80}")
            object.__setattr__(self, "size", tuple(self.size))
            numbers |= dict(zip(("height", "width of size"), self.size, strict=True))
            limits |= dict.fromkeys(("height", "width of size"), (1, 1024))
        for name, value in numbers.items():
            low, high = limits[name]
            if type(value) is not int or not low <= value <= high:
                raise ValueError(
                    f"network: {name} must be a whole number from {low} to {high}, found "
                    f"{value!r:.40}"
                )

    @property
    def halvings(self) -> int:
        """How often the picture is halved before the blocks."""
        return 0 if self.size is None else max(0, ceil(log2(max(self.size) / _GRID)))

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON types."""
        return asdict(self) | {"size": None if self.size is None else list(self.size)}


class EvaluatorNet(nn.Module):
    """Numbers for each picture, given the noise level, and a text where it reads one.

    Args:
        settings: its shape.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        width = settings.width
        self.stem = nn.Conv2d(settings.channels, width, 3, padding=1)
        self.halve = nn.ModuleList(nn.Conv2d(width, width, 2, 2) for _ in range(settings.halvings))
        self.known = nn.Linear(2 * _WAVES + settings.text, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(settings.depth))
        self.head = nn.Linear(4 * width, settings.outputs)

    def forward(self, x: Tensor, level: Tensor, text: Tensor | None = None) -> Tensor:
        """What the network says of each picture.

        Args:
            x: predictions of x0, or noisy samples in variance preserving form,
                ``(B, channels, height, width)``.
            level: ``log(sigma / alpha)``, ``(B,)``; infinite for data and for pure noise.
            text: features ``(B, text)``, for networks that read text.

        Returns:
            ``(B, outputs)``.
        """
        known = [_waves(level.to(x))]
        if self.settings.text:
            known.append(_plain(text))
        condition = F.gelu(self.known(torch.cat(known, 1)))
        h = self.stem(x)
        for halve in self.halve:
            h = halve(F.pad(h, (0, h.shape[3] % 2, 0, h.shape[2] % 2)))
        for block in self.blocks:
            h = block(h, condition)
        return self.head(_quarters(_normal(h)))


class AlignmentNet(nn.Module):
    """Unit vectors for pictures and for texts, whose products say how well the two agree.

    Args:
        settings: its shape; ``outputs`` is the width of the vectors.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.picture = EvaluatorNet(replace(settings, text=0))
        self.text = nn.Linear(settings.text, settings.outputs)
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Unit vectors ``(B, outputs)`` of pictures; arguments as in ``EvaluatorNet``."""
        return F.normalize(self.picture(x, level), dim=1)

    def embed_text(self, text: Tensor) -> Tensor:
        """Unit vectors ``(n, outputs)`` of text features ``(n, text)``."""
        return F.normalize(self.text(_plain(text)), dim=1)

    def agreement(self, x: Tensor, level: Tensor, text: Tensor) -> Tensor:
        """Scaled cosine of each picture with its own text features ``(B, text)``, ``(B, 1)``."""
        return self.scale * (self(x, level) * self.embed_text(text)).sum(1, keepdim=True)

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by: learned, at most 100."""
        return self.log_scale.exp().clamp(max=100.0)


Net = EvaluatorNet | AlignmentNet


def build(kind: str, settings: NetworkSettings) -> Net:
    """A new network of a kind of evaluator, with random weights.

    Raises:
        ValueError: it would have more than a million parameters.
    """
    network = AlignmentNet if kind == "alignment" else EvaluatorNet
    with torch.device("meta"):
        count = sum(weight.numel() for weight in network(settings).parameters())
    if count > MOST_PARAMETERS:
        raise ValueError(
            f"network: expected at most {MOST_PARAMETERS} parameters, found {count}; lower width, "
            "depth or outputs"
        )
    return network(settings)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.film = nn.Linear(width, 2 * width)
        self.wide = nn.Linear(width, 2 * width)
        self.back = nn.Linear(2 * width, width)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[:, None, None].chunk(2, 3)
        inner = _normal(self.near(h)) * (1 + scale) + shift
        return h + self.back(F.gelu(self.wide(inner))).permute(0, 3, 1, 2)


def _normal(h: Tensor) -> Tensor:
    """Every position with mean 0 and deviation 1 over the channels, which come last."""
    return F.layer_norm(h.permute(0, 2, 3, 1), h.shape[1:2])


def _plain(text: Tensor | None) -> Tensor:
    """Text features with mean 0 and deviation 1; encoders differ by orders of magnitude."""
    if text is None:
        raise ValueError("network: it reads text, found none; give text features (B, text)")
    return F.layer_norm(text, text.shape[1:])


def _waves(level: Tensor) -> Tensor:
    """Sines and cosines of the noise level, ``(B, 16)``."""
    angles = (
        level.clamp(-_LEVELS, _LEVELS)[:, None]
        * torch.arange(1, _WAVES + 1).to(level)
        * (pi / (2 * _LEVELS))
    )
    return torch.cat([angles.sin(), angles.cos()], 1)


def _quarters(h: Tensor) -> Tensor:
    """Means over the quarters of a picture ``(B, height, width, channels)``, ``(B, 4 channels)``.

    An odd row or column in the middle is in both halves.
    """
    top, left = ((side + 1) // 2 for side in h.shape[1:3])
    rows = (h[:, :top], h[:, -top:])
    parts = [part for row in rows for part in (row[:, :, :left], row[:, :, -left:])]
    return torch.cat([part.mean((1, 2)) for part in parts], 1)
