"""A denoiser as it is called without guidance, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Denoiser:
    """A network, which may be in the wrapper of torch.compile, and its own, unguided call."""

    module: nn.Module
    plain: Callable[..., Any]

    @property
    def model(self) -> nn.Module:
        """The network itself."""
        return network(self.module)

    @cached_property
    def compiled(self) -> bool:
        """Whether torch.compile runs any part of the network; looked up once in a run."""
        return any(
            hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
            for part in self.module.modules()
        )


def network(denoiser: Any) -> Any:
    """The denoiser itself, without the wrapper of torch.compile."""
    return getattr(denoiser, "_orig_mod", denoiser)


def eager() -> Any:
    """A block without compiled code, which does not notice that hooks came or went."""
    return torch.compiler.set_stance("force_eager")


def prediction_of(output: Any) -> Tensor:
    """The tensor ``(B, ...)`` in what a denoiser returned."""
    first = output if isinstance(output, Tensor) else output[0]
    return torch.stack(tuple(first)) if isinstance(first, list | tuple) else first


def with_prediction(output: Any, prediction: Tensor) -> Any:
    """An output like another one of the same denoiser, with this prediction in it."""
    if isinstance(output, Tensor):
        return prediction
    value: Any = prediction
    if isinstance(output[0], list | tuple):
        value = type(output[0])(prediction)
    if isinstance(output, tuple):
        return (value, *output[1:])
    return type(output)(**{**output, next(iter(output)): value})
