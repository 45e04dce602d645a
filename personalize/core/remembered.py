"""A text encoder that is frozen: each of the few prompts of a run is encoded once, and alone.

T5 of Stable Diffusion 3 and of FLUX learns no words, and is the largest part of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from guidance.core.intercept import intercept

_REMEMBERED = 64
"""Texts whose encodings are kept: 8 MB each for T5-XXL and 512 tokens in float32."""


class Remembered:
    """The encodings of a text encoder that does not change.

    Args:
        encoder: a model of transformers, called with ids ``(B, tokens)``.
    """

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self._known: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    def at_work(self) -> AbstractContextManager[None]:
        """A block in which calls of the encoder give what is remembered."""
        return intercept(self._encoder, {"__call__": self._call})

    def _call(
        self, plain: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor]:
        (ids,) = args
        return (torch.cat([self._encoded(plain, row, kwargs) for row in ids]),)

    @torch.no_grad()
    def _encoded(self, plain: Callable[..., Any], ids: Tensor, kwargs: dict[str, Any]) -> Tensor:
        key = tuple(ids.tolist())
        if key not in self._known:
            self._known[key] = plain(ids[None], **kwargs)[0]
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]
