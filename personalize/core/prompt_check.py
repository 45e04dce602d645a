"""What the text encoders of a pipeline read of a prompt, and what goes wrong with words in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from personalize.core import vocabulary
from personalize.core.loading import loaded
from personalize.core.words import clip_encoders


@dataclass(frozen=True)
class PromptCheck:
    """A prompt as the first CLIP text encoder reads it.

    Attributes:
        tokens: in order, without the marks at both ends; those too many are there, too.
        words: added words that it holds, by ``load`` or by other means.
        problems: what keeps words from acting, one line each; none if all is well.
    """

    tokens: tuple[str, ...]
    words: tuple[str, ...]
    problems: tuple[str, ...]


def check_prompt(pipe: Any, prompt: str) -> PromptCheck:
    """Look up how a pipeline reads a prompt, such as one whose word seems to do nothing.

    Args:
        pipe: pipeline with a CLIP text encoder.
        prompt: as it would be given to the pipeline.

    Raises:
        ValueError: the pipeline has no CLIP text encoder.
    """
    read, problems = {}, []
    for encoder in clip_encoders(pipe):
        name = encoder.replace("text_encoder", "tokenizer")
        tokenizer = getattr(pipe, name)
        read[name] = _tokens(pipe, tokenizer, prompt)
        problems += [f"{name}: {problem}" for problem in _problems(tokenizer, read[name], prompt)]
    words = {name: _words(getattr(pipe, name), tokens) for name, tokens in read.items()}
    (first, own), *others = words.items()
    for name, found in others:
        problems += [
            f"{word!r} is known to one of {first} and {name} only, and spelled out by the other; "
            "load it into both"
            for word in (*own, *found)
            if (word in own) != (word in found)
        ]
    if (known := loaded(pipe)) and not any(word in own for word in known):
        problems.append(f"the prompt holds none of the loaded words: {', '.join(known)}")
    return PromptCheck(read[first], own, tuple(problems))


def _tokens(pipe: Any, tokenizer: Any, prompt: str) -> tuple[str, ...]:
    if hasattr(pipe, "maybe_convert_prompt"):  # as the pipeline itself does before it reads
        prompt = pipe.maybe_convert_prompt(prompt, tokenizer)
    ids = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
    return tuple(tokenizer.convert_ids_to_tokens(ids))


def _added(tokenizer: Any) -> set[str]:
    return set(tokenizer.added_tokens_encoder) - set(tokenizer.all_special_tokens)


def _words(tokenizer: Any, tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Added words among tokens, in order, once."""
    added = _added(tokenizer)
    return tuple(dict.fromkeys(t for t in tokens if t in added and _base(t) not in added))


def _base(token: str) -> str | None:
    """The word whose further vector a token is, by its name: ``<cat>`` of ``<cat>_1``."""
    found = re.fullmatch(r"(.+)_[1-9]\d*", token)
    return found[1] if found else None


def _problems(tokenizer: Any, tokens: tuple[str, ...], prompt: str) -> Iterator[str]:
    room = tokenizer.model_max_length - 2
    if len(tokens) > room:
        yield (
            f"the prompt has {len(tokens)} tokens, of which {room} are read; from "
            f"{tokens[room]!r} on it is cut off"
        )
    added = _added(tokenizer)
    for token in sorted(added):
        base = _base(token)
        if base is not None and base not in tokenizer.get_vocab():
            yield (
                f"{token!r} is left over from a {base!r} that was taken off; take it off with "
                f"pipe.unload_textual_inversion({token!r})"
            )
        if token != vocabulary.as_read(tokenizer, token) and f"{token}_1" in added:
            yield (
                f"{token!r} has capitals, so that only the first of its vectors is read; load it "
                "with personalize.load, or under a name in lower case"
            )
    vocab = tokenizer.get_vocab()
    for word in dict.fromkeys(re.findall(r"<[^<>\s|]+>", prompt)):
        if vocabulary.as_read(tokenizer, word) not in vocab and word not in vocab:
            yield f"{word!r} is no word that it knows, and is spelled out; load it first"
