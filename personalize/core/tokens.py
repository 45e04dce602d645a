"""New words: their vectors as parameters of their own, and what is known of words and vectors.

The tables of the text encoders stay as they are. For as long as a block lasts, a lookup of the ids
of new words gives rows of a parameter instead, and the pipeline has copies of its tokenizers that
know the words: so the other rows cannot move, the optimizer holds k rows and no table, and nothing
needs to be put back after an interrupted run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guidance.core.intercept import intercept
from personalize.core import vocabulary
from personalize.core.backbone import Backbone, Conditioning, TextEncoder
from personalize.core.files import read_embeddings
from personalize.core.remembered import Remembered


def check_token(token: object) -> str:
    """The token, if it can be a placeholder.

    Raises:
        TypeError, ValueError: it is no text, or one that tokenizers take apart.
    """
    if not isinstance(token, str):
        raise TypeError(f"token must be text such as '<my-cat>', found {token!r}")
    if not token or any(character.isspace() for character in token):
        raise ValueError(
            f"token must be one word without spaces such as '<my-cat>', found {token!r}"
        )
    if token != token.lower():
        raise ValueError(
            f"token must be in lower case, as tokenizers turn prompts into it, found {token!r}; "
            f"write {token.lower()!r}"
        )
    return token


def with_word(tokenizer: Any, names: tuple[str, ...]) -> Any:
    """A copy of a tokenizer that knows a further word, as it does once the word is loaded.

    Raises:
        ValueError: it knows one of the names, has no room for them, or takes them apart.
    """
    try:
        vocabulary.check_free(tokenizer, names)
    except ValueError as error:
        raise ValueError(f"token {names[0]!r} cannot be used: {error}") from error
    wider = copy.deepcopy(tokenizer)
    vocabulary.add_tokens(wider, names)
    pieces = wider.tokenize(names[0])
    if pieces != list(names):
        raise ValueError(
            f"token {names[0]!r} is read as {pieces} by the tokenizer; choose a word of plain "
            "letters such as '<my-cat>'"
        )
    return wider


class Placeholder:
    """A word of k vectors that the text encoders of a pipeline know within ``known``.

    Args:
        backbone: of the pipeline, whose vocabularies must not hold the token.
        token: as it stands in prompts; one word in lower case.
        rows: ``(k, width)`` for each text encoder, by its key.

    Attributes:
        words: one for each vector.
        rows: the vectors, parameters in the dtype they were given in.

    Raises:
        TypeError, ValueError: a token that cannot be a placeholder, or rows that do not fit the
            encoders.
    """

    def __init__(self, backbone: Backbone, token: str, rows: Mapping[str, Tensor]) -> None:
        self.backbone, self.token = backbone, check_token(token)
        widths = {encoder.key: encoder.table.shape[1] for encoder in backbone.text_encoders}
        found = {key: tuple(value.shape) for key, value in rows.items()}
        vectors = next(iter(found.values()), (0,))[0]
        if not vectors or found != {key: (vectors, width) for key, width in widths.items()}:
            raise ValueError(
                f"{type(backbone.pipe).__name__} needs rows (vectors, width) of widths {widths}, "
                f"as many for each text encoder, found shapes {found}"
            )
        self.words = vocabulary.token_names(token, vectors)
        self.rows = {key: nn.Parameter(value.detach().clone()) for key, value in rows.items()}
        self._tokenizers = {
            encoder.tokenizer_name: with_word(encoder.tokenizer, self.words)
            for encoder in backbone.text_encoders
        }
        self._frozen = [Remembered(encoder) for encoder in backbone.frozen_text_encoders]

    def encode(self, prompts: Sequence[str], clip_skip: int | None = None) -> Conditioning:
        """Prompts with the token in them, see ``Backbone.encode``."""
        with self.known():
            return self.backbone.encode(prompts, clip_skip)

    def check(self, prompt: str, name: str) -> None:
        """Raise ValueError if a prompt lacks the token, or is so long that it is cut off.

        Args:
            prompt: as it is given to ``encode``.
            name: of its picture, for the message.
        """
        for tokenizer in self._tokenizers.values():
            wanted = set(tokenizer.convert_tokens_to_ids(list(self.words)))
            if not wanted <= set(tokenizer(prompt, verbose=False).input_ids):
                raise ValueError(
                    f"the prompt of {name} must hold {{}} or {self.token!r} where the new word "
                    f"goes, found {prompt!r:.80}"
                )
            cut_off = wanted - set(tokenizer(prompt, truncation=True).input_ids)
            if cut_off:
                raise ValueError(
                    f"the prompt of {name} is too long for {len(self.words)} vectors: "
                    f"{len(cut_off)} are cut off after {tokenizer.model_max_length} tokens; "
                    "shorten it, or use fewer"
                )

    @contextmanager
    def known(self) -> Iterator[None]:
        """Let the pipeline know the token; on leaving it is as before."""
        with ExitStack() as stack:
            for frozen in self._frozen:
                stack.enter_context(frozen.at_work())
            for encoder in self.backbone.text_encoders:
                tokenizer = self._tokenizers[encoder.tokenizer_name]
                first = tokenizer.convert_tokens_to_ids(self.token)
                stack.enter_context(_looked_up(encoder, first, self.rows[encoder.key]))
                stack.enter_context(pooled_at_end(encoder))
                stack.callback(_put, encoder.pipe, encoder.tokenizer_name, encoder.tokenizer)
                _put(encoder.pipe, encoder.tokenizer_name, tokenizer)
            yield


def _looked_up(encoder: TextEncoder, first: int, rows: Tensor) -> Any:
    """Block in which ids from `first` on are looked up in `rows`."""

    def look_up(plain: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        (ids,) = args
        new = ids >= first
        known = plain(torch.where(new, 0, ids))
        return torch.where(new[..., None], rows.to(known.dtype)[(ids - first).clamp(min=0)], known)

    return intercept(encoder.model.get_input_embeddings(), {"__call__": look_up})


def _put(pipe: Any, name: str, part: Any) -> None:
    """Set a part of a pipeline and leave its config, which would note the class anew."""
    object.__setattr__(pipe, name, part)


@contextmanager
def pooled_at_end(encoder: TextEncoder) -> Iterator[None]:
    """Let an encoder read its pooled embedding at the end of the text also where new words are.

    A CLIP text model whose config has 2 as ``eos_token_id``, as old ones do, reads it at the
    largest id: the end of the text in its own vocabulary, but those of new words are larger.
    """
    end = encoder.tokenizer.eos_token_id
    astray = [part for part in encoder.model.modules() if getattr(part, "eos_token_id", end) == 2]
    for part in astray:
        part.eos_token_id = end
    try:
        yield
    finally:
        for part in astray:
            part.eos_token_id = 2


def initial_rows(
    backbone: Backbone,
    generator: torch.Generator,
    vectors: int | None = None,
    text: str | None = None,
    path: str | Path | None = None,
) -> dict[str, Tensor]:
    """Rows ``(vectors, width)`` in float32 to start from, for each text encoder by its key.

    Args:
        backbone: whose text encoders.
        generator: of the noise, where there is neither a text nor a file.
        vectors: how many, 1 if not given, or as many as the file has.
        text: words that the rows start as, see ``text_rows``.
        path: file of embeddings to start as.

    Raises:
        ValueError: a text without tokens, a file that does not fit the text encoders or the number
            of vectors.
    """
    encoders = backbone.text_encoders
    if path is not None:
        rows = _rows_of_file(backbone, path)
        found = len(next(iter(rows.values())))
        if vectors not in (None, found):
            raise ValueError(f"{str(path)!r} has {found} vectors, but num_vectors is {vectors}")
        return rows
    count = vectors or 1
    if text is not None:
        return {encoder.key: text_rows(encoder, text, count) for encoder in encoders}
    return {encoder.key: random_rows(encoder, count, generator) for encoder in encoders}


def _rows_of_file(backbone: Backbone, path: str | Path) -> dict[str, Tensor]:
    """Embeddings of a file in float32, for each text encoder."""
    _, found = read_embeddings(path)
    expected = {encoder.key: encoder.table.shape[1] for encoder in backbone.text_encoders}
    widths = {key: rows.shape[1] for key, rows in found.items()}
    if widths != expected:
        raise ValueError(
            f"{str(path)!r} has vectors of widths {widths}, but {type(backbone.pipe).__name__} "
            f"needs {expected}; use a file made for this model"
        )
    return {
        encoder.key: found[encoder.key].to(encoder.table.device, torch.float32)
        for encoder in backbone.text_encoders
    }


def text_rows(encoder: TextEncoder, text: str, vectors: int) -> Tensor:
    """Rows ``(vectors, width)`` in float32 that start as those of a text, over and over.

    Raises:
        ValueError: the text has no tokens.
    """
    ids = encoder.tokenizer(text, add_special_tokens=False).input_ids
    if not ids:
        raise ValueError(f"initializer must be a word or several, found {text!r}")
    return encoder.table[[ids[row % len(ids)] for row in range(vectors)]].float()


def random_rows(encoder: TextEncoder, vectors: int, generator: torch.Generator) -> Tensor:
    """Rows ``(vectors, width)`` in float32 of normal noise with the spread of the table."""
    table = encoder.table
    noise = torch.randn(vectors, table.shape[1], generator=generator)
    return noise.to(table.device) * table.float().std()


def std_pull(rows: Tensor, std: float | Tensor) -> Tensor:
    """Rows drawn towards a spread: ``V (std / std(V))^0.1``, with one ``std(V)`` of all elements.

    Source: ``train_dreambooth_lora_sdxl_advanced.py`` of diffusers, after each step.
    """
    return rows * (std / rows.std()) ** 0.1


def rescale(rows: Tensor, norm: float | Tensor) -> Tensor:
    """Rows ``(k, width)`` with the length of each set to a norm."""
    return rows * (norm / rows.norm(dim=1, keepdim=True))


def nearest_words(encoder: TextEncoder, rows: Tensor, count: int = 3) -> list[list[str]]:
    """Whole words of the vocabulary that look most like each row, by cosine, the nearest first."""
    words = {
        piece.removesuffix("</w>"): number
        for piece, number in encoder.tokenizer.get_vocab().items()
        if piece.endswith("</w>")
    }
    names, ids = list(words), list(words.values())
    table = F.normalize(encoder.table[ids].float(), dim=1)
    nearest = (F.normalize(rows.detach().float(), dim=1) @ table.T).topk(count, dim=1).indices
    return [[names[place] for place in row] for row in nearest.tolist()]
