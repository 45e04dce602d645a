"""A pipeline lent to a training run, and given back as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


def modules(pipe: Any) -> dict[str, nn.Module]:
    """The networks of a pipeline, by the name of the component."""
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}


@contextmanager
def borrowed(
    pipe: Any,
    device: torch.device,
    checkpointing: bool = False,
    xformers: bool = False,
    owned: bool = False,
) -> Iterator[None]:
    """Freeze a pipeline in eval mode on a device, and give it back as it was.

    Args:
        pipe: the pipeline; its weights are not touched.
        device: where to put it.
        checkpointing: compute the denoiser's activations again in the backward pass.
        xformers: attention of xformers in the denoiser.
        owned: nobody needs the pipeline afterwards: nothing of it is remembered, so that weights
            which a method replaces go.

    Raises:
        ValueError: the pipeline is offloaded, so that its parts cannot be put anywhere.
    """
    parts = modules(pipe)
    for name, part in parts.items():
        hook = getattr(part, "_hf_hook", None)
        if hook is not None or any(weight.is_meta for weight in part.parameters()):
            raise ValueError(
                f"{name} of the pipeline is offloaded; call pipe.remove_all_hooks(), or load it "
                "without offloading"
            )
    with ExitStack() as stack:
        for part in parts.values():
            if not owned:
                stack.enter_context(_given_back(part))
            part.requires_grad_(False).eval().to(device)
        denoiser: Any = parts.get("transformer", parts.get("unet"))
        if denoiser is not None and checkpointing and not denoiser.is_gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
            stack.callback(denoiser.disable_gradient_checkpointing)
        if denoiser is not None and xformers:
            stack.callback(denoiser.set_attn_processor, dict(denoiser.attn_processors))
            denoiser.enable_xformers_memory_efficient_attention()
        yield


@contextmanager
def _given_back(part: nn.Module) -> Iterator[None]:
    """Put modes, gradient flags and device back at the end of the block."""
    modes = [(module, module.training) for module in part.modules()]
    grads = [(weight, weight.requires_grad) for weight in part.parameters()]
    placed = next((weight.device for weight in part.parameters()), None)
    try:
        yield
    finally:
        if placed is not None:
            part.to(placed)
        for module, training in modes:
            module.training = training
        for weight, wanted in grads:
            weight.requires_grad_(wanted)


@contextmanager
def sampling(pipe: Any) -> Iterator[None]:
    """Sample in silence and without a trace: calls of a pipeline leave attributes on it."""
    kept = dict(vars(pipe))
    try:
        pipe.scheduler = copy.deepcopy(pipe.scheduler)
        pipe.set_progress_bar_config(disable=True)
        yield
    finally:
        vars(pipe).clear()
        vars(pipe).update(kept)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Products of float32 matrices in TF32 on CUDA, where allowed."""
    kept = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = kept or allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = kept
