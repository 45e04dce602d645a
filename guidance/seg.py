"""Smoothed energy guidance (SEG).

"Smoothed Energy Guidance: Guiding Diffusion Models with Reduced Energy Curvature of Attention",
Susung Hong, 2024, arXiv 2408.00760.

    q'     = Gaussian blur of the queries over the grid of image tokens
    guided = cond + s (cond - perturbed)

Works in the model's own space; being affine, it is the same update in every space. Blurring the
queries is blurring the attention logits over the queries, without forming them; where positions
are rotated into the queries, that takes the rotated ones.

The kernel is the authors': ``ceil(6 sigma)`` tokens wide, made odd, at most as wide as the grid,
and reflected at the edges. Deviations: the grid need not be square; text queries of joint attention
are left alone; an infinite blur, the mean of the queries, is written None and is the default, as
in the authors' pipeline.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil

import torch
from torch import Tensor, nn

from guidance.core.attention import Attention, intercepted
from guidance.core.family import Family
from guidance.core.heads import Selectors, check_selectors, resolve_layers
from guidance.core.layers import Layer
from guidance.core.perturb import Call, Perturbation, PerturbedDirection
from guidance.core.prediction import wide
from guidance.core.schedule import check_number


def blur(query: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Gaussian blur over a grid of tokens.

    Args:
        query: ``(B, H, N, D)``, tokens row by row.
        size: height and width of the grid, ``N`` tokens together.
        sigma: standard deviation in tokens, above 0.

    Returns:
        ``(B, H, N, D)``.

    Source: the authors' pipeline, see the top of this file.
    """
    rows, columns = (_blur_matrix(side, sigma).to(wide(query)) for side in size)
    grid = wide(query).unflatten(2, size)
    return torch.einsum("yi,xj,bhijd->bhyxd", rows, columns, grid).flatten(2, 3).to(query.dtype)


def _blur_matrix(side: int, sigma: float) -> Tensor:
    """Weights ``(side, side)`` of the tokens of a row in each blurred token."""
    width = ceil(6 * sigma)
    reach = min(width - width % 2, side - side % 2) // 2
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    sources = torch.arange(side)[:, None] + offsets
    last = side - 1
    sources = last - (last - sources.abs()).abs()
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, sources, (weights / weights.sum()).expand(side, -1))


@dataclass(frozen=True)
class Blurred(Perturbation):
    """Queries of chosen layers are blurred; see ``SEG`` for the settings."""

    layers: Selectors = "auto"
    blur: float | None = None

    def check(self, model: nn.Module, family: Family) -> tuple[str, ...]:
        return tuple(layer.path for layer in resolve_layers(model, self.layers))

    @contextmanager
    def applied(self, model: nn.Module, call: Call) -> Iterator[None]:
        with ExitStack() as stack:
            for layer in resolve_layers(model, self.layers):
                stack.enter_context(intercepted(layer, call, partial(self._blurred, layer, call)))
            yield

    def _blurred(self, layer: Layer, call: Call, attention: Attention) -> Tensor:
        image = attention.query[:, :, attention.image]
        if self.blur is None:
            image = wide(image).mean(2, keepdim=True).to(image.dtype).expand_as(image)
        else:
            image = blur(image, _grid(layer, call, image.shape[2]), self.blur)
        query = attention.query.clone()
        query[:, :, attention.image] = image
        output = attention.output.clone()
        output[:, :, attention.image] = attention.again(query)[:, :, attention.image]
        return output


def _grid(layer: Layer, call: Call, count: int) -> tuple[int, int]:
    """Height and width of a layer's image tokens; a UNet halves the sample from level to level."""
    if call.sides is not None:
        height, width = call.sides
        levels = range(max(call.sides).bit_length() + 1)
        for step in [layer.patch] if layer.patch else [2**level for level in levels]:
            size = (ceil(height / step), ceil(width / step))
            if size[0] * size[1] == count:
                return size
    raise ValueError(
        f"the grid of the {count} tokens in {layer.path} is unknown, because the sample of the "
        "denoiser is no picture; use blur=None, which needs no grid"
    )


@dataclass(frozen=True, repr=False)
class SEG(PerturbedDirection):
    """Pushes away from the prediction of a denoiser whose attention is blurred.

    Needs no prompt and no unconditional rows: it works alone, and in a sum with CFG.

    Args:
        scale: ``s``, finite number from 0 up, schedule, or function of the fraction of the run.
            Neutral at 0, where nothing is evaluated.
        blur: standard deviation in tokens from 0 (neutral) up; None for infinite, where all queries
            become their mean.
        layers: selectors of self-attention layers, see ``guidance.core.heads``; ``"auto"`` for a
            default by family.

    Raises:
        TypeError, ValueError: a setting is not of its kind or range; on entering a guide block,
            layers that the model does not have.
    """

    blur: float | None = None
    layers: Selectors = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blur is not None:
            object.__setattr__(self, "blur", check_number("SEG", "blur", self.blur))
        layers = check_selectors("SEG", "layers", self.layers, numbered=False)
        object.__setattr__(self, "layers", layers)

    @property
    def perturbation(self) -> Blurred | None:
        return None if self.blur == 0 else Blurred(self.layers, self.blur)
