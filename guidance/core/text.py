"""What a pipeline's own text encoder makes of a prompt, as one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_LONGEST = 512
"""Tokens that are read of a prompt where the tokenizer names no limit."""


def text_features(pipe: Any, prompts: Sequence[str | int]) -> Tensor:
    """Mean over the tokens of each prompt beside its last token, of the last hidden state.

    By the first text encoder alone, one prompt after the other and without padding, so that a
    prompt has the same features in every batch.

    Args:
        pipe: pipeline with a ``tokenizer`` and a ``text_encoder``.
        prompts: n texts.

    Returns:
        ``(n, 2 width)`` in float32.

    Raises:
        ValueError: the pipeline has no such parts, no prompt is given, or a class label is.
    """
    return TextFeatures(pipe)(prompts)


class TextFeatures:
    """``text_features`` of one pipeline, which are kept for every prompt that was asked for.

    Args:
        pipe: the pipeline; None for a bare denoiser, which has no text encoder.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._known: dict[str, Tensor] = {}

    def __call__(self, prompts: Sequence[str | int]) -> Tensor:
        """Features of the prompts, ``(n, 2 width)``; see ``text_features``."""
        self._check()
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"text features need a list of prompts, found {prompts!r:.80}")
        for text in prompts:
            if not isinstance(text, str):
                raise ValueError(f"text features need prompts, found the class label {text!r:.80}")
            if text not in self._known:
                self._known[text] = self._encoded(text)
        return torch.stack([self._known[str(text)] for text in prompts])

    def _check(self) -> None:
        if self._pipe is None:
            raise ValueError(
                "a bare denoiser has no text encoder to read prompts with: guide the pipeline "
                "instead"
            )
        for name in ("tokenizer", "text_encoder"):
            if getattr(self._pipe, name, None) is None:
                raise ValueError(
                    f"{type(self._pipe).__name__} has no {name} to read prompts with: expected a "
                    "text-to-image pipeline; use evaluators without text"
                )

    @torch.no_grad()
    def _encoded(self, text: str) -> Tensor:
        tokenizer, encoder = self._pipe.tokenizer, self._pipe.text_encoder
        if hasattr(self._pipe, "maybe_convert_prompt"):  # learned tokens of several vectors
            text = self._pipe.maybe_convert_prompt(text, tokenizer)
        longest = min(tokenizer.model_max_length, _LONGEST)
        ids = tokenizer(text, truncation=True, max_length=longest)["input_ids"]
        ids = ids or [tokenizer.eos_token_id or tokenizer.pad_token_id or 0]
        device = getattr(self._pipe, "_execution_device", encoder.device)
        tokens = torch.tensor([ids], device=device)
        try:
            output = encoder(
                tokens, attention_mask=torch.ones_like(tokens), output_hidden_states=True
            )
            state = getattr(output, "last_hidden_state", None)
            state = output.hidden_states[-1] if state is None else state
        except (AttributeError, TypeError) as error:  # made for more than text, as CLAP is
            raise ValueError(
                f"{type(encoder).__name__} gives no hidden state for text alone; use evaluators "
                "without text"
            ) from error
        state = state[0].float()
        return torch.cat([state.mean(0), state[-1]])
