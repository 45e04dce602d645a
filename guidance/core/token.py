"""A token of a rule's own in the prompt, whose embedding can be anything and gets gradients.

A word is put into the text, so that tokenizer and text encoders treat it as any other, and its
embedding is replaced on the way, by a hook: neither the vocabulary nor a parameter is touched. The
pipeline's own ``encode_prompt`` runs again for it, with the arguments that the pipeline gave it.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from guidance.core.arguments import Arguments
from guidance.core.rule import Token

_TEXTS = re.compile(r"prompt(_\d)?")
_REPEATS = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")
_PLACEHOLDERS = ("x", "z")
"""Words of one token in every vocabulary."""

Texts = dict[str, list[str]]
"""Prompts by the argument of ``encode_prompt``, one for each image."""


@dataclass(frozen=True)
class Encoding:
    """A call of ``encode_prompt`` as the pipeline made it.

    Attributes:
        plain: the method.
        given: its arguments by name.
        outputs: what it returned.
    """

    plain: Callable[..., Any]
    given: Mapping[str, Any]
    outputs: tuple[Any, ...]

    def again(self, texts: Texts) -> tuple[Any, ...]:
        """What the method returns for other texts."""
        parameters = inspect.signature(self.plain).parameters
        given = {**self.given, **texts}
        given |= {name: 1 for name in _REPEATS if name in parameters}
        if "do_classifier_free_guidance" in parameters:
            given["do_classifier_free_guidance"] = False
        with _without_warnings(self.plain):
            return flat(self.plain(**given))

    def texts(self, images: int) -> Texts:
        """The prompts that were given."""
        found: Texts = {}
        for name, value in self.given.items():
            if _TEXTS.fullmatch(name) and value is not None:
                several = [value] if isinstance(value, str) else list(value)
                found[name] = [text for text in several for _ in range(images // len(several))]
        return found


class PromptToken:
    """A token in each image's prompt, with an embedding of its own for each text encoder.

    Args:
        pipe: the pipeline.
        encoding: its call of ``encode_prompt``.
        sent: the conditional rows that it gave its denoiser.
        token: which token, and where.

    Raises:
        ValueError: the word is not one token, its text encoders cannot be edited, or its denoiser
            is not given what ``encode_prompt`` returned.
    """

    def __init__(self, pipe: Any, encoding: Encoding, sent: Arguments, token: Token) -> None:
        self._pipe, self._encoding = pipe, encoding
        self._places = self._find_places(sent)
        self._own_embedding = token.word is not None
        word = token.word or _PLACEHOLDERS[0]
        first = [token.position == "start"] * sent.total
        self._locate(word, first)
        cut = [not all(found) for found in self._found()]
        if any(cut) and token.position == "end":
            self._locate(word, cut)  # the ends of these prompts are cut off, their starts are not
        if not all(map(all, self._found())):
            raise ValueError(
                f"the word {word!r} at the {token.position} of the prompt does not reach every "
                f"text encoder of {type(pipe).__name__}; shorten the prompt"
            )

    def initial(self) -> list[Tensor]:
        """Embedding to begin with for each text encoder, ``(images, width)`` in float32.

        That of the word, or the mean of the vocabulary if none was named.
        """
        found = []
        for module, mark in self._marks.items():
            table = module.get_parameter("weight").detach().float()
            mean = table.mean(0).expand(len(mark), -1).clone()
            found.append(table[self._ids[module][mark]] if self._own_embedding else mean)
        return found

    def encode(self, embeddings: Sequence[Tensor]) -> dict[str, Tensor]:
        """The denoiser's arguments for the prompts with the token, by path, with their graph.

        Args:
            embeddings: of the token, as ``initial`` returns them.
        """
        vectors = dict(zip(self._marks, embeddings, strict=True))

        def replace(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            # Assignments to a copy let gradients through to what is assigned.
            output = output.clone()
            output[self._marks[module]] = vectors[module].to(output.dtype)
            return output

        outputs = self._listen(self._texts, replace)
        for index in self._places.values():
            if outputs[index].shape != self._encoding.outputs[index].shape:
                raise self._refusal("its prompts are not all brought to one length")
        return {path: outputs[index] for path, index in self._places.items()}

    def _find_places(self, sent: Arguments) -> dict[str, int]:
        """Where the denoiser is given an output of ``encode_prompt``: path to number."""
        places = {}
        for path, tensor in sent.tensors():
            for index, output in enumerate(self._encoding.outputs):
                same = isinstance(output, Tensor) and output.shape == tensor.shape
                if same and torch.equal(output.to(tensor.dtype), tensor):
                    places[path] = index
                    break
        if not any(tensor.ndim > 2 for path, tensor in sent.tensors() if path in places):
            raise self._refusal("its denoiser is not given the tensors that encode_prompt returns")
        return places

    def _locate(self, word: str, first: Sequence[bool]) -> None:
        """Put the word into the prompts, and find its place in each text encoder's tokens.

        That is where the tokens change with the word.
        """
        other = next(each for each in _PLACEHOLDERS if each != word)
        plain = self._encoding.texts(len(first))
        self._texts, others = (
            {
                name: [f"{w} {t}" if s else f"{t} {w}" for t, s in zip(texts, first, strict=True)]
                for name, texts in plain.items()
            }
            for w in (word, other)
        )
        heard, compared = self._hear(self._texts), self._hear(others)
        self._ids, self._marks = heard, {}
        for module, ids in heard.items():
            there = compared[module]
            if ids.shape != there.shape or ((ids != there).sum(1) > 1).any():
                raise ValueError(
                    f"word must be one token of every tokenizer of {type(self._pipe).__name__}, "
                    f"found {word!r}; choose a shorter, more common one"
                )
            self._marks[module] = ids != there

    def _found(self) -> list[tuple[bool, ...]]:
        """For each image, whether its token reaches each text encoder."""
        return list(zip(*(mark.any(1).tolist() for mark in self._marks.values()), strict=True))

    def _hear(self, texts: Texts) -> dict[nn.Module, Tensor]:
        """Token ids ``(images, tokens)`` that each text encoder is given."""
        heard: dict[nn.Module, list[Tensor]] = {}

        def note(module: nn.Module, args: Any, output: Tensor) -> None:
            heard.setdefault(module, []).append(args[0])

        with torch.no_grad():
            self._listen(texts, note)
        if not heard or any(len(calls) > 1 for calls in heard.values()):
            raise self._refusal("it does not run each text encoder once for all prompts")
        return {module: calls[0] for module, calls in heard.items()}

    def _listen(self, texts: Texts, hook: Callable[..., Any]) -> tuple[Any, ...]:
        """``encode_prompt`` of other texts, with a hook on every embedding of tokens."""
        with ExitStack() as stack:
            for module in _embeddings(self._pipe):
                stack.enter_context(_hooked(module, hook))
            return self._encoding.again(texts)

    def _refusal(self, reason: str) -> ValueError:
        return ValueError(
            f"{type(self._pipe).__name__} cannot be given a token of the rule's own: {reason}; "
            "leave the rule out"
        )


def flat(result: Any) -> tuple[Any, ...]:
    """What a method returned, as a tuple."""
    return tuple(result) if isinstance(result, list | tuple) else (result,)


def _embeddings(pipe: Any) -> Iterator[nn.Module]:
    """Embeddings of tokens in a pipeline's text encoders."""
    for name, part in pipe.components.items():
        if name.startswith("text_encoder") and hasattr(part, "get_input_embeddings"):
            try:
                table = part.get_input_embeddings().weight
            except NotImplementedError:  # CLAP does not say which they are
                continue
            for module in part.modules():
                if isinstance(module, nn.Embedding) and module.weight is table:
                    yield module


@contextmanager
def _hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _without_warnings(method: Callable[..., Any]) -> Iterator[None]:
    """Silence what a pipeline logs; it has said so of its own prompt, token or not."""
    plain = method.func if isinstance(method, partial) else method
    logger = logging.getLogger(plain.__module__)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
