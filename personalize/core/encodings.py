"""Where a concept's word stands in encoded prompts, and what it is encoded as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from personalize.core.backbone import Backbone


@torch.no_grad()
def super_category_encoding(
    backbone: Backbone, prompts: Sequence[str], word: str, clip_skip: int | None, batch: int = 16
) -> Tensor:
    """Mean encoding ``(d_in,)`` of a word's last token in prompts with ``{}`` in its place."""
    rows = []
    tokens = len(token_ids(backbone.text_encoders[0].tokenizer, word))
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        texts = [prompt.replace("{}", word) for prompt in part]
        embeds = backbone.encode(texts, clip_skip).embeds.float()
        rows.append(at_concept(backbone, embeds, part, tokens))
    return torch.cat(rows).mean(0)


def at_concept(backbone: Backbone, embeds: Tensor, prompts: Sequence[str], tokens: int) -> Tensor:
    """Encodings ``(B, d_in)`` of the last token of what stands for ``{}`` in prompts."""
    tokenizer = backbone.text_encoders[0].tokenizer
    before = [prompt.partition("{}")[0] for prompt in prompts]
    places = [_position(tokenizer, text, tokens) for text in before]
    return embeds[torch.arange(len(prompts)), places]


def _position(tokenizer: Any, before: str, tokens: int) -> int:
    """Place of a word's last token in an encoding.

    Args:
        tokenizer: of the text encoder.
        before: what stands before the word.
        tokens: of the word.

    Raises:
        ValueError: the word is cut off, because too much stands before it.
    """
    place, most = len(token_ids(tokenizer, before)) + tokens, tokenizer.model_max_length - 2
    if place > most:
        raise ValueError(
            f"a prompt must have at most {most} tokens up to the concept, found {place} in "
            f"{before + '{}'!r:.80}"
        )
    return place


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text, without those around it."""
    found: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return found
