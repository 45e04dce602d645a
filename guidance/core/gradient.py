"""Gradients of functions of a sample, with the network that made the sample left out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gradient(function: Callable[[Tensor], Tensor], x: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Value and gradient of a function at each sample; the weights in it get no gradient.

    Args:
        function: from ``(B, ...)`` to ``(B,)``, each sample for itself.
        x: where the gradient is taken, ``(B, ...)``.
        what: names the function in errors.

    Returns:
        Values ``(B,)`` and gradients ``(B, ...)``, without a graph.

    Raises:
        ValueError: the function returns another shape, or nothing that can be differentiated.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        values = function(x)
    return values.detach(), slope_of(values, x, what)


def slope_of(values: Tensor, x: Tensor, what: str) -> Tensor:
    """Gradient of one number for each sample with respect to the samples, ``(B, ...)``.

    Args:
        values: ``(B,)``, with the graph from x.
        x: ``(B, ...)``, a leaf.
        what: names the values in errors.

    Raises:
        ValueError: values of another shape, or without a graph from x.
    """
    if values.shape != x.shape[:1]:
        raise ValueError(
            f"{what} must return one number for each of the {len(x)} images, found shape "
            f"{tuple(values.shape)}"
        )
    slope = None
    if values.requires_grad:
        (slope,) = torch.autograd.grad(values, x, torch.ones_like(values), allow_unused=True)
    if slope is None:
        raise ValueError(
            f"{what} must be differentiable, found a result that does not follow the image; "
            "leave out no_grad, inference_mode, detach and rounding"
        )
    return slope


def finite_rows(tensor: Tensor) -> tuple[Tensor, int]:
    """The tensor with zeros in the samples that are not finite everywhere, and their number."""
    finite = tensor.flatten(1).isfinite().all(1)
    mask = finite.view(-1, *[1] * (tensor.ndim - 1))
    return torch.where(mask, tensor, 0.0), int((~finite).sum())
