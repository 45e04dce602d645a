"""Which rows of encodings come from prompts that hold a word, so that others can be left alone.

The pipeline's ``encode_prompt`` is watched: encodings that it returned are known by their values,
also after they were repeated and stacked. Encodings from elsewhere are taken to hold every word.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from weakref import ref

import torch
from torch import Tensor

_REMEMBERED = 64
"""Encodings of prompts without some word that are kept."""

Holds = Callable[[str], Sequence[bool]]
"""Of a prompt, for each word whether it holds it."""


class Watch:
    """Watches a pipeline's ``encode_prompt`` until ``stop``.

    Args:
        pipe: pipeline of Stable Diffusion 1, 2 or XL.
        holds: of a prompt, for each word whether it holds it; always of the same length.
        clip_skip: what encodings must be made with, or ValueError is raised.
    """

    def __init__(self, pipe: Any, holds: Holds, clip_skip: int | None = None) -> None:
        # Weakly, for whoever keeps this object beside the pipeline.
        self._pipe, self._holds = ref(pipe), holds
        self._known: deque[tuple[Tensor, tuple[bool, ...]]] = deque(maxlen=_REMEMBERED)
        self._words = len(tuple(holds("")))
        plain = pipe.encode_prompt
        signature = inspect.signature(plain)

        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            call = signature.bind(*args, **kwargs).arguments
            if call.get("clip_skip") != clip_skip:
                raise ValueError(
                    f"the concept on the pipeline was trained with clip_skip={clip_skip}, found "
                    f"clip_skip={call.get('clip_skip')}; call the pipeline with the same"
                )
            encoded = plain(*args, **kwargs)
            embeds, negatives, *_ = encoded
            if call.get("prompt_embeds") is None:
                self._remember(embeds, call.get("prompt"))
            if negatives is not None and call.get("negative_prompt_embeds") is None:
                self._remember(negatives, call.get("negative_prompt") or "")
            return encoded

        # Not by setattr, for which pipelines have rules of their own.
        object.__setattr__(pipe, "encode_prompt", encode_prompt)

    def stop(self) -> None:
        """Watch no more."""
        pipe = self._pipe()
        if pipe is not None:
            del pipe.__dict__["encode_prompt"]

    def present(self, encodings: Tensor) -> Tensor:
        """bool ``(B, words)``: which words the prompts of encodings ``(B, tokens, width)`` hold."""
        found = torch.ones(len(encodings), self._words, dtype=torch.bool)
        for row, holds in self._known:
            if row.shape == encodings.shape[1:] and row.device == encodings.device:
                same = (encodings == row.to(encodings.dtype)).flatten(1).all(1).cpu()
                found[same] = torch.tensor(holds)
        return found

    def _remember(self, encodings: Tensor, prompts: Any) -> None:
        if prompts is None:
            return
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        each, rest = divmod(len(encodings), len(texts))
        if len(texts) == 1:
            each, rest = len(encodings), 0
        if rest:
            return
        for number, text in enumerate(texts):
            holds = tuple(self._holds(text or ""))
            row = encodings[number * each].detach()
            if not all(holds) and not any(
                known.shape == row.shape and known.device == row.device and torch.equal(known, row)
                for known, _ in self._known
            ):
                self._known.append((row, holds))
