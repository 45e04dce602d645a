"""What a pipeline gives its denoiser for another prompt: its own call, stopped at the first step.

The pipeline prepares embeddings, pooled embeddings, masks and time ids itself, whatever its family
needs, so that nothing of that is repeated here. The denoiser is not evaluated.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from guidance.core.arguments import Arguments
from guidance.core.prediction import prompt

_OTHER_PROMPTS = re.compile(r"(pooled_|t5_|clip_)?prompt_(\d|embeds|mask|attention_mask).*")


class Heard(BaseException):
    """Ends a rehearsal with the conditional rows of the first denoiser call."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__()
        self.arguments = arguments


def rehearse_all(
    pipe: Any, plain: Callable[..., Any], call: Mapping[str, Any], branches: Sequence[prompt]
) -> dict[prompt, Arguments]:
    """Conditional rows for several prompts, see ``rehearse``; one call serves all class labels."""
    heard: dict[prompt, Arguments] = {}
    for branch in branches:
        first = next(iter(heard.values()), None)
        if first is None or not isinstance(first.values.get("class_labels"), torch.Tensor):
            heard[branch] = rehearse(pipe, plain, call, branch.text)
        else:
            texts = _texts(branch.text, call["class_labels"], None)
            heard[branch] = first.with_labels(texts)
    return heard


def rehearse(
    pipe: Any,
    plain: Callable[..., Any],
    call: Mapping[str, Any],
    text: str | int | tuple[str | int, ...] | Callable[[Any], str | int],
) -> Arguments:
    """Conditional rows that the pipeline sends for another prompt.

    Args:
        pipe: the pipeline.
        plain: its own call; its denoiser must raise ``Heard``.
        call: arguments of the call with the main prompt.
        text: prompt or class label, or one for each prompt of the call, or a function of each.

    Raises:
        ValueError: no prompt to replace, not one text for each prompt of the call, or a function of
            prompts that are given as embeddings.
    """
    name = "class_labels" if "class_labels" in call else "prompt"
    if name not in call:
        raise ValueError(
            f"{type(pipe).__name__} takes no prompt: extra prompts need a pipeline that does"
        )
    parameters = inspect.signature(plain).parameters
    changed = dict(call)
    for other in changed:
        if _OTHER_PROMPTS.fullmatch(other):
            changed[other] = parameters[other].default
    changed[name] = _texts(text, call[name], call.get("prompt_embeds"))
    with _nothing_moves(pipe, call.get("generator")):
        try:
            plain(**changed)
        except Heard as heard:
            return heard.arguments
    raise ValueError(f"{type(pipe).__name__} ended its call without calling its denoiser")


def _texts(text: Any, main: Any, embeds: Any) -> Any:
    """The text in the form of the main prompt, one for each image if that is a list."""
    single = isinstance(main, str | int) or (main is None and embeds is None)
    count = 1 if single else len(embeds if main is None else main)
    if callable(text):
        if main is None:
            raise ValueError(
                "an extra prompt is made from the prompt of the call, found embeddings in its "
                "place; give the prompt as text"
            )
        return text(main) if single else [text(each) for each in main]
    if isinstance(text, tuple):
        if len(text) != count:
            raise ValueError(
                f"an extra prompt must be one text, or one for each of the {count} prompts of the "
                f"call, found {len(text)}: {text!r:.80}"
            )
        return list(text)
    return text if single and not isinstance(text, int) else [text] * count


@contextmanager
def _nothing_moves(pipe: Any, generators: Any) -> Iterator[None]:
    """Put random states and the progress bar back afterwards."""
    if not isinstance(generators, list | tuple):
        generators = [] if generators is None else [generators]
    states = [generator.get_state() for generator in generators]
    bar = getattr(pipe, "_progress_bar_config", None)
    pipe._progress_bar_config = {**(bar or {}), "disable": True}
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        if bar is None:
            del pipe._progress_bar_config
        else:
            pipe._progress_bar_config = bar
        pipe.maybe_free_model_hooks()
