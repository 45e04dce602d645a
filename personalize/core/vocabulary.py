"""Tokens of new words in a tokenizer, and out of it again to the bit.

A word of k vectors is k tokens, called as diffusers calls them: ``<cat>``, ``<cat>_1`` and so on. A
prompt holds the first, and the tokenizer itself reads it as all of them, in any case of letters,
and once also where somebody wrote all of them. (diffusers writes words out before the tokenizer
sees them: again where they are written out already, not where they are in another case, and not at
all for Stable Diffusion 3.)
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import AddedToken, Tokenizer

from personalize.core.safetensors_file import BadFile

Words = dict[str, tuple[str, ...]]
"""Names of a word's tokens, by the first of them."""


@dataclass
class _Before:
    """What a tokenizer was, and what it has been given."""

    kind: type
    backend: Tokenizer
    size: int
    words: Words = field(default_factory=dict)
    current: Tokenizer | None = None


_BEFORE: WeakKeyDictionary[Any, _Before] = WeakKeyDictionary()


def token_names(token: str, count: int) -> tuple[str, ...]:
    """What the tokens of a word of ``count`` vectors are called."""
    return (token, *(f"{token}_{number}" for number in range(1, count)))


def as_read(tokenizer: Any, token: str) -> str:
    """A word as the tokenizer sees it in a prompt: in lower case, if it is one of CLIP."""
    normalizer = getattr(getattr(tokenizer, "_tokenizer", None), "normalizer", None)
    return token if normalizer is None else str(normalizer.normalize_str(token))


def replaced(tokenizer: Any, text: str, others: Mapping[str, str]) -> str:
    """Text with other words in place of words that were added here, wherever it is read as them."""
    pattern, groups = _pattern(tuple(_BEFORE[tokenizer].words.values()), _any_case(tokenizer))

    def write(found: re.Match[str]) -> str:
        names = groups.get(found.lastindex)
        # Apart from what it touches, as the tokens of an added word are.
        return f" {others[names[0]]} " if names and names[0] in others else found[0]

    return pattern.sub(write, text)


def vocabulary_size(tokenizer: Any) -> int:
    """Tokens that a tokenizer has without the words that were added here."""
    before = _BEFORE.get(tokenizer)
    return len(tokenizer) if before is None else before.size


def check_free(tokenizer: Any, names: tuple[str, ...]) -> None:
    """Raise BadFile unless a tokenizer can take these tokens."""
    if not isinstance(getattr(tokenizer, "_tokenizer", None), Tokenizer):
        raise BadFile(
            f"{type(tokenizer).__name__} is not made of the tokenizers library; load a fast one"
        )
    vocabulary = tokenizer.get_vocab()
    for name in names:
        if name in vocabulary or f"{name}</w>" in vocabulary:
            raise BadFile(
                f"the tokenizer has a token {name!r} already, of its own or of something that was "
                "loaded before; name another with token='<word>'"
            )
    if (left := f"{names[0]}_1") in vocabulary:
        raise BadFile(
            f"the tokenizer has a token {left!r}, left over from another {names[0]!r}; take it off "
            f"with pipe.unload_textual_inversion({left!r}), or name another with token='<word>'"
        )
    if len(names) > (room := tokenizer.model_max_length - 2):
        raise BadFile(f"it has {len(names)} vectors, but a prompt has room for {room}")


def is_untouched(tokenizer: Any) -> bool:
    """Whether a tokenizer is as it was left here."""
    before = _BEFORE.get(tokenizer)
    if before is None:
        return True
    size = before.size + sum(map(len, before.words.values()))
    return tokenizer._tokenizer is before.current and len(tokenizer) == size


def add_tokens(tokenizer: Any, names: tuple[str, ...]) -> None:
    """Add the tokens of a word, with the ids that follow."""
    if tokenizer not in _BEFORE:
        _BEFORE[tokenizer] = _Before(type(tokenizer), tokenizer._tokenizer, len(tokenizer))
    _lay_out(tokenizer, _BEFORE[tokenizer].words | {names[0]: names})


def remove_tokens(tokenizer: Any, token: str) -> None:
    """Remove the tokens of a word if they are there; later ones move up."""
    if tokenizer in _BEFORE:
        words = _BEFORE[tokenizer].words
        _lay_out(tokenizer, {name: names for name, names in words.items() if name != token})


def _lay_out(tokenizer: Any, words: Words) -> None:
    before = _BEFORE[tokenizer]
    if not words:
        tokenizer._tokenizer = before.backend
        object.__setattr__(tokenizer, "__class__", before.kind)
        del _BEFORE[tokenizer]
        return
    backend = Tokenizer.from_str(before.backend.to_str())
    for names in words.values():
        # A name of letters alone must not be found inside of a longer word.
        plain = _is_plain(names[0])
        backend.add_tokens([AddedToken(name, single_word=plain) for name in names])
    tokenizer._tokenizer = before.current = backend
    object.__setattr__(tokenizer, "__class__", _reading(before.kind))
    before.words = words


@functools.cache
def _reading(cls: Any) -> type:
    """Subclass of a tokenizer's class, of the same name, that reads a word as all its tokens."""

    def encode_plus(self: Any, text: Any, text_pair: Any = None, *args: Any, **kwargs: Any) -> Any:
        before = _BEFORE.get(self)
        if before is not None:
            text, text_pair = (
                _written_out(part, tuple(before.words.values()), _any_case(self))
                for part in (text, text_pair)
            )
        return cls._encode_plus(self, text, text_pair, *args, **kwargs)

    def added_tokens_encoder(self: Any) -> dict[str, int]:
        # Without the numbered ones: diffusers looks for them here to write words out itself.
        before = _BEFORE.get(self)
        words = before.words if before is not None else {}
        hidden = {name for names in words.values() for name in names[1:]}
        found = cls.added_tokens_encoder.fget(self)
        return {name: number for name, number in found.items() if name not in hidden}

    body = {
        "_encode_plus": encode_plus,
        "added_tokens_encoder": property(added_tokens_encoder),
        "__doc__": cls.__doc__,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
    }
    return type(cls.__name__, (cls,), body)


def _written_out(text: Any, words: tuple[tuple[str, ...], ...], any_case: bool) -> Any:
    """Text, or lists of texts, with every word as the names of all its tokens, once."""
    if isinstance(text, list | tuple):
        return type(text)(_written_out(part, words, any_case) for part in text)
    if not isinstance(text, str):
        return text
    pattern, groups = _pattern(words, any_case)
    return pattern.sub(lambda found: " ".join(groups.get(found.lastindex, (found[0],))), text)


@functools.lru_cache(64)
def _pattern(
    words: tuple[tuple[str, ...], ...], any_case: bool
) -> tuple[re.Pattern[str], dict[int | None, tuple[str, ...]]]:
    """Pattern of all names, longer ones first, and the names that its groups, the words, have."""
    options = [(names[0], names) for names in words]
    options += [(name, ()) for names in words for name in names[1:]]
    options.sort(key=lambda option: len(option[0]), reverse=True)
    parts: list[str] = []
    groups: dict[int | None, tuple[str, ...]] = {}
    for name, names in options:
        part = re.escape(name)
        if names:
            rest = "".join(rf"\s*{re.escape(other)}" for other in names[1:])
            part = f"({part}(?:{rest})?)"
            groups[len(groups) + 1] = names
        parts.append(rf"(?<!\w){part}(?!\w)" if _is_plain(name) else part)
    return re.compile("|".join(parts), re.IGNORECASE if any_case else 0), groups


def _any_case(tokenizer: Any) -> bool:
    return as_read(tokenizer, "A") == "a"


def _is_plain(name: str) -> bool:
    return re.fullmatch(r"\w+", name) is not None
