"""Which rows of encodings come from prompts that hold a word, so that others can be left alone.

The pipeline's ``encode_prompt`` is watched: encodings that it returned are known by their values,
also after they were repeated and stacked. Encodings from elsewhere are taken to hold every word.
Prompts can also be encoded a second time with something else in place of words.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor

_REMEMBERED = 256
"""Encodings of prompts without some word, or with a counterpart, that are kept."""

_TEXTS = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")

Holds = Callable[[str], Sequence[bool]]
"""Of a prompt, for each word whether it holds it."""

Replace = Callable[[str], str]
"""Of a prompt, the same with other words in place of some."""


@dataclass(frozen=True)
class _Known:
    """An encoding ``(tokens, width)``, the words its prompt holds, and its counterpart."""

    row: Tensor
    holds: tuple[bool, ...]
    counterpart: Tensor | None


class Watch:
    """Watches a pipeline's ``encode_prompt`` until ``stop``.

    Args:
        pipe: pipeline of Stable Diffusion 1, 2 or XL.
        holds: of a prompt, for each word whether it holds it; always of the same length.
        clip_skip: what encodings must be made with, or ValueError is raised.
        replace: of a prompt, the one whose encoding is its counterpart; None for no counterparts.
    """

    def __init__(
        self,
        pipe: Any,
        holds: Holds,
        clip_skip: int | None = None,
        replace: Replace | None = None,
    ) -> None:
        # Weakly, for whoever keeps this object beside the pipeline.
        self._pipe, self._holds = ref(pipe), holds
        self._known: deque[_Known] = deque(maxlen=_REMEMBERED)
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
            others = encoded if replace is None else plain(**_replaced(call, replace))
            for kind, rows, counterparts in zip(("", "negative_"), encoded, others, strict=False):
                if rows is not None and call.get(f"{kind}prompt_embeds") is None:
                    texts = call.get(f"{kind}prompt") or ("" if kind else None)
                    self._remember(rows, texts, None if replace is None else counterparts)
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
        for known in self._known:
            found[_same(encodings, known.row)] = torch.tensor(known.holds)
        return found

    def counterparts(self, encodings: Tensor) -> Tensor:
        """Encodings ``(B, tokens, width)`` of the same prompts with other words in them.

        Raises:
            ValueError: a row whose prompt is not known.
        """
        found, missing = encodings.clone(), torch.ones(len(encodings), dtype=torch.bool)
        for known in self._known:
            if known.counterpart is not None:
                same = _same(encodings, known.row)
                found[same.to(found.device)] = known.counterpart.to(found)
                missing &= ~same
        if bool(missing.any()):
            raise ValueError(
                "global_lock needs the text of every prompt, found an encoding that the "
                "pipeline's encode_prompt did not make since the concept was loaded; give the "
                "prompt itself, or load with global_lock=False"
            )
        return found

    def _remember(self, encodings: Tensor, prompts: Any, counterparts: Tensor | None) -> None:
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
            counterpart = None if counterparts is None else counterparts[number * each].detach()
            if (counterpart is not None or not all(holds)) and not any(
                bool(_same(row[None], known.row)) for known in self._known
            ):
                self._known.append(_Known(row, holds, counterpart))


def _same(encodings: Tensor, row: Tensor) -> Tensor:
    """bool ``(B,)``: which encodings ``(B, tokens, width)`` have the values of a row."""
    if row.shape != encodings.shape[1:] or row.device != encodings.device:
        return torch.zeros(len(encodings), dtype=torch.bool)
    return (encodings == row.to(encodings.dtype)).flatten(1).all(1).cpu()


def _replaced(call: dict[str, Any], replace: Replace) -> dict[str, Any]:
    """Arguments of ``encode_prompt`` with every text in them replaced."""

    def of(texts: Any) -> Any:
        if isinstance(texts, list | tuple):
            return [of(text) for text in texts]
        return replace(texts) if isinstance(texts, str) else texts

    return {name: of(value) if name in _TEXTS else value for name, value in call.items()}
