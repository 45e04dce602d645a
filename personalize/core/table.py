"""Rows of new words in a text encoder's table of embeddings, and out of it again to the bit.

The table stays one and the same parameter throughout, wherever it is moved meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from personalize.core.safetensors_file import BadFile

MAX_LENGTH = 1000.0
"""Most that the norm of a vector may be, in mean norms of the encoder's own."""

_OLD_END = 2


@dataclass
class _Before:
    """What an encoder was, and what it has been given.

    Attributes:
        size: of the tokenizer's vocabulary.
        beyond: rows of the table after that.
        length: ``vocab_size`` of the config.
        ends: ``eos_token_id`` of all that has one.
        words: rows of each word, in the order of their ids.
    """

    size: int
    beyond: Tensor
    length: int
    ends: tuple[Any, ...]
    words: dict[str, Tensor] = field(default_factory=dict)


_BEFORE: WeakKeyDictionary[nn.Module, _Before] = WeakKeyDictionary()


def table_of(encoder: Any) -> nn.Embedding:
    """The embeddings of a text encoder's tokens; raises BadFile if something is in their place."""
    table = encoder.get_input_embeddings()
    if not isinstance(table, nn.Embedding):
        raise BadFile(f"the text encoder has a {type(table).__name__} as embeddings; undo that")
    return table


def check_rows(name: str, encoder: Any, size: int, rows: Tensor) -> None:
    """Raise BadFile unless an encoder can take these rows.

    Args:
        name: of the encoder.
        encoder: a CLIP text model.
        size: of its tokenizer's vocabulary.
        rows: ``(k, width)``.
    """
    weight = table_of(encoder).weight.detach()
    if weight.is_meta or not weight.is_floating_point():
        raise BadFile(
            f"the embeddings of {name} are out of reach, offloaded layer by layer or quantized; "
            "load it before that"
        )
    if len(weight) < size:
        raise BadFile(
            f"{name} has {len(weight)} embeddings for the {size} tokens of its tokenizer, which "
            "do not belong together; load the pipeline anew"
        )
    usual = float(weight[:size].float().norm(dim=1).mean())
    norm = float(rows.norm(dim=1).max())
    if norm > MAX_LENGTH * usual:
        raise BadFile(
            f"a vector has a norm of {norm:.3g}, those of {name} have about {usual:.3g}; it is "
            "spoiled, or was made for another model"
        )


def is_untouched(encoder: Any) -> bool:
    """Whether an encoder's table is as it was left here."""
    before = _BEFORE.get(encoder)
    if before is None:
        return True
    weight = table_of(encoder).weight
    held = max(sum(map(len, before.words.values())), len(before.beyond))
    return not weight.is_meta and len(weight) == before.size + held


def add_rows(encoder: Any, size: int, end: int, token: str, rows: Tensor) -> None:
    """Add the rows of a word.

    Args:
        encoder: a CLIP text model.
        size: of its tokenizer's vocabulary without added words.
        end: id of the token that ends a text. An old config says 2, and then the pooled embedding
            is read at the largest id: at the end in its own vocabulary, but at the new words now.
        token: the word.
        rows: ``(k, width)``.
    """
    if encoder not in _BEFORE:
        beyond = table_of(encoder).weight.detach()[size:].clone()
        ends = tuple(part.eos_token_id for part in _ending(encoder))
        _BEFORE[encoder] = _Before(size, beyond, encoder.config.vocab_size, ends)
    _lay_out(encoder, _BEFORE[encoder].words | {token: rows.detach()}, end)


def remove_rows(encoder: Any, end: int, token: str) -> None:
    """Remove the rows of a word if they are there; later ones move up."""
    if encoder in _BEFORE:
        words = _BEFORE[encoder].words
        _lay_out(encoder, {name: rows for name, rows in words.items() if name != token}, end)


def _lay_out(encoder: Any, words: dict[str, Tensor], end: int) -> None:
    before, table = _BEFORE[encoder], table_of(encoder)
    weight = table.weight.data
    added = [rows.to(weight) for rows in words.values()]
    rest = before.beyond[sum(map(len, added)) :].to(weight)
    table.weight.data = torch.cat([weight[: before.size], *added, rest])
    for part in encoder.modules():
        if isinstance(part, nn.Embedding) and part.weight is table.weight:
            part.num_embeddings = len(table.weight)
    encoder.config.vocab_size = max(before.length, len(table.weight)) if words else before.length
    for part, own in zip(_ending(encoder), before.ends, strict=True):
        part.eos_token_id = end if words and own == _OLD_END else own
    before.words = words
    if not words:
        del _BEFORE[encoder]


def _ending(encoder: Any) -> list[Any]:
    """What knows the id of the token that ends a text: models, and the config."""
    return [part for part in encoder.modules() if "eos_token_id" in vars(part)] + [encoder.config]
