"""Words of textual inversions on a pipeline: in its tokenizers and CLIP text encoders."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from personalize.core import table, vocabulary
from personalize.core.artifact import TOKEN, Artifact
from personalize.core.dialects import KEYS, check_word
from personalize.core.safetensors_file import BadFile

ENCODERS = ("text_encoder", "text_encoder_2")


def put_on(pipe: Any, artifact: Artifact, token: str | None) -> tuple[str, ...]:
    """Give a pipeline the word of a textual inversion, see ``add_word``."""
    return add_word(pipe, token or artifact.metadata[TOKEN], artifact.tensors)


def take_off(pipe: Any, name: str) -> None:
    """Take it off again, see ``remove_word``."""
    remove_word(pipe, name)


def add_word(pipe: Any, token: str, vectors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Give the CLIP text encoders of a pipeline a word; returns the names of its tokens.

    Args:
        pipe: a pipeline.
        token: the word, which is put in lower case where the tokenizer puts prompts in it.
        vectors: ``(k, width)`` by ``clip_l`` and ``clip_g``, see ``personalize.core.dialects``.

    Raises:
        BadFile: the vectors do not fit the text encoders, the word is taken, or an encoder or a
            tokenizer cannot have it; nothing is changed then.
        ValueError: see ``remove_word``.
    """
    encoders = clip_encoders(pipe)
    rows = _fit(pipe, encoders, vectors)
    tokenizers = {name: _tokenizer(pipe, name) for name in encoders}
    for tokenizer in tokenizers.values():
        token = vocabulary.as_read(tokenizer, token)
        check_word(token)
    names = vocabulary.token_names(token, len(next(iter(rows.values()))))
    for name, encoder in encoders.items():
        vocabulary.check_free(tokenizers[name], names)
        _check_untouched(name, encoder, tokenizers[name])
        table.check_rows(name, encoder, len(tokenizers[name]), rows[name])
    with ExitStack() as undo:
        for name, encoder in encoders.items():
            tokenizer = tokenizers[name]
            size, end = vocabulary.vocabulary_size(tokenizer), tokenizer.eos_token_id
            undo.callback(table.remove_rows, encoder, end, token)
            table.add_rows(encoder, size, end, token, rows[name])
        for tokenizer in _different(tokenizers):
            undo.callback(vocabulary.remove_tokens, tokenizer, token)
            vocabulary.add_tokens(tokenizer, names)
        undo.pop_all()
    return names


def remove_word(pipe: Any, token: str) -> None:
    """Take off what ``add_word`` gave; the last word leaves everything as it was, to the bit.

    Raises:
        ValueError: the tokens or embeddings were changed by other means meanwhile.
    """
    encoders = clip_encoders(pipe)
    tokenizers = {name: _tokenizer(pipe, name) for name in encoders}
    for name, encoder in encoders.items():
        _check_untouched(name, encoder, tokenizers[name])
    for name, encoder in encoders.items():
        table.remove_rows(encoder, tokenizers[name].eos_token_id, token)
    for tokenizer in _different(tokenizers):
        vocabulary.remove_tokens(tokenizer, token)


def clip_encoders(pipe: Any) -> dict[str, Any]:
    """CLIP text encoders of a pipeline by name; raises BadFile if it has none."""
    found = {
        name: encoder
        for name in ENCODERS
        if isinstance(
            encoder := getattr(pipe, name, None), CLIPTextModel | CLIPTextModelWithProjection
        )
    }
    if not found:
        raise BadFile(
            f"{type(pipe).__name__} has no CLIP text encoder that could take a word; load it into "
            "Stable Diffusion 1, 2, XL or 3, or FLUX.1"
        )
    return found


def _tokenizer(pipe: Any, encoder: str) -> Any:
    return getattr(pipe, encoder.replace("text_encoder", "tokenizer"), None)


def _different(tokenizers: Mapping[str, Any]) -> list[Any]:
    """The tokenizers; one that two encoders share is there once."""
    return list({id(tokenizer): tokenizer for tokenizer in tokenizers.values()}.values())


def _fit(
    pipe: Any, encoders: Mapping[str, Any], vectors: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """The vectors for each encoder, if they are for encoders of these widths."""
    if len(encoders) == len(vectors) == 1:
        given = dict(zip(encoders, vectors.values(), strict=True))
    else:
        of = dict(zip(KEYS, ENCODERS, strict=True))
        given = {of[key]: rows for key, rows in vectors.items()}
    if set(encoders) == {ENCODERS[1]}:  # the refiner of SDXL has the second encoder alone
        given.pop(ENCODERS[0], None)
    found = {name: rows.shape[1] for name, rows in given.items()}
    widths = {name: table.table_of(encoder).embedding_dim for name, encoder in encoders.items()}
    if found != widths:
        raise BadFile(
            f"its vectors have width {_written(found)}, but {type(pipe).__name__} takes "
            f"{_written(widths)}; it was made for another model, or a part is missing"
        )
    return given


def _written(widths: Mapping[str, int]) -> str:
    return " and ".join(f"{width} ({name})" for name, width in widths.items())


def _check_untouched(name: str, encoder: Any, tokenizer: Any) -> None:
    if not (table.is_untouched(encoder) and vocabulary.is_untouched(tokenizer)):
        raise ValueError(
            f"the words of {name} were changed by other means while something was loaded, such as "
            "pipe.load_textual_inversion or offloading layer by layer; undo that first, or load "
            "the pipeline anew"
        )
