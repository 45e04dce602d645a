"""Perturbations: changes of a denoiser's inner work on some rows of a batch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from guidance.core.family import Family


@dataclass(frozen=True)
class Call:
    """The denoiser call that a perturbation works on.

    Attributes:
        rows: rows of the batch to perturb.
        total: rows in the batch.
        text_tokens: text tokens in the model's sequence, 0 if text is not in the sequence.
        size: spatial size of the denoiser's sample, ``(height, width)`` for 4-D, ``()`` for tokens.
    """

    rows: slice
    total: int
    text_tokens: int
    size: tuple[int, ...]


@dataclass(frozen=True)
class Perturbation:
    """Base of the perturbations: immutable, hashable settings."""

    def check(self, model: nn.Module, family: Family) -> None:
        """Raise ValueError where the settings do not fit the model."""

    def applied(self, model: nn.Module, call: Call) -> AbstractContextManager[None]:
        """Context in which the model treats the rows of the call as perturbed."""
        raise NotImplementedError
