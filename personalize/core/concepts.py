"""Perfusion's concepts on a pipeline: one word and one edit each, all edits exact together."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from personalize.core.artifact import TOKEN, Artifact
from personalize.core.presence import Watch
from personalize.core.projections import Edit, Editing, cross_projections, projected
from personalize.core.safetensors_file import BadFile
from personalize.core.vocabulary import replaced
from personalize.core.words import add_word, remove_word

BETA, BETA_OF_SEVERAL, BETA_OF_GLOBAL_LOCK, TEMPERATURE = 0.7, 0.6, 0.5, 0.15
"""Of the gates in drawing: beta for one concept, for one of several, and with a global lock.

They are those of public re-implementations.
"""

_EMBEDDING = "embedding."
_VECTORS = ("i_star", "c_inv_i_star", "super_category")


@dataclass(frozen=True)
class _Concept:
    """A concept on a pipeline; beta is None for the default.

    ``global_lock`` is the super-category, where the keys are those of the prompt with it.
    """

    token: str
    tensors: dict[str, Tensor]
    covariance: str
    clip_skip: int | None
    beta: float | None
    temperature: float
    only_when_present: bool
    global_lock: str | None


@dataclass
class _Applied:
    """All concepts of one UNet, and what carries them out."""

    concepts: dict[str, _Concept]
    editing: Editing
    watch: Watch

    def stop(self) -> None:
        self.editing.stop()
        self.watch.stop()


_APPLIED: WeakKeyDictionary[Any, _Applied] = WeakKeyDictionary()


def put_on(
    pipe: Any,
    artifact: Artifact,
    token: str | None,
    *,
    beta: float | None = None,
    temperature: float = TEMPERATURE,
    only_when_present: bool = True,
    global_lock: bool = False,
) -> tuple[str, ...]:
    """Give a pipeline the word and the edit of a concept; returns the word.

    Args:
        pipe: pipeline of Stable Diffusion 1, 2 or XL.
        artifact: of kind ``perfusion``.
        token: the word in prompts, None for the artefact's.
        beta: bias of the gate; lower for more of the concept, higher for more of the rest of the
            prompt, 0.4 to 0.8. None for 0.5 with ``global_lock``; else for 0.7, or 0.6 with several
            concepts on the pipeline.
        temperature: of the gate, above 0.
        only_when_present: leave encodings of prompts without the word exactly as they are.
        global_lock: make the keys of the whole prompt with the super-category in place of the
            word, in place of those of the word alone. The word takes as many tokens as the
            super-category has, all of the one vector, which is ours.

    Raises:
        BadFile: it is for another model, or was trained in another metric than the concepts that
            are on the pipeline already; nothing is changed then.
        ValueError: a control that is out of its range.
    """
    for name, number, low in (("beta", beta, -math.inf), ("temperature", temperature, 0.0)):
        if number is not None and not low < number < math.inf:
            raise ValueError(f"{name} must be a finite number above {low:g}, found {number}")
    concept = _concept(artifact, token, beta, temperature, only_when_present, global_lock)
    _check(pipe, concept)
    embedding = {
        name.removeprefix(_EMBEDDING): rows
        for name, rows in artifact.tensors.items()
        if name.startswith(_EMBEDDING)
    }
    if concept.global_lock is not None:
        count = len(pipe.tokenizer(concept.global_lock, add_special_tokens=False).input_ids)
        embedding = {name: rows[:1].repeat(count, 1) for name, rows in embedding.items()}
    words = add_word(pipe, concept.token, embedding)
    _lay_out(pipe, {**_on(pipe), words[0]: concept})
    return words


def take_off(pipe: Any, name: str) -> None:
    """Take a concept off; the last one leaves everything as it was, to the bit."""
    remove_word(pipe, name)
    _lay_out(pipe, {token: concept for token, concept in _on(pipe).items() if token != name})


def gate_table(pipe: Any, prompt: str) -> dict[str, list[tuple[str, float]]]:
    """How much of each concept every token of a prompt gets, by the concept's word.

    Args:
        pipe: a pipeline with concepts on it.
        prompt: at most as long as the text encoder reads.

    Returns:
        For each concept, each token with its gate, from 0 for none of the concept to 1.

    Raises:
        ValueError: there is no concept on the pipeline.
    """
    applied = _APPLIED.get(pipe.unet)
    if applied is None:
        raise ValueError("no concept of Perfusion is on the pipeline; load one first")
    ids = pipe.tokenizer(prompt).input_ids
    with torch.no_grad():
        embeds = pipe.encode_prompt(
            prompt, num_images_per_prompt=1, device=pipe.device, do_classifier_free_guidance=False
        )[0]
        gates = applied.editing.gates(embeds)[0, : len(ids)]
    tokens = pipe.tokenizer.convert_ids_to_tokens(ids)
    return {
        name: list(zip(tokens, column.tolist(), strict=True))
        for name, column in zip(applied.concepts, gates.T, strict=True)
    }


def _on(pipe: Any) -> dict[str, _Concept]:
    applied = _APPLIED.get(pipe.unet)
    return {} if applied is None else applied.concepts


def _concept(
    artifact: Artifact,
    token: str | None,
    beta: float | None,
    temperature: float,
    only_when_present: bool,
    global_lock: bool,
) -> _Concept:
    about = artifact.metadata
    try:
        clip_skip = json.loads(about["clip_skip"])
        covariance, word = about["covariance"], token or about[TOKEN]
        super_category = about["super_category"] if global_lock else None
    except (KeyError, ValueError) as error:
        raise BadFile(
            f"its metadata lacks what a concept needs ({error}); train it anew"
        ) from error
    if super_category is not None and not super_category.strip():
        raise BadFile("its super-category is empty, which global_lock needs; train it anew")
    tensors = dict(artifact.tensors)
    return _Concept(
        word, tensors, covariance, clip_skip, beta, temperature, only_when_present, super_category
    )


def _check(pipe: Any, concept: _Concept) -> None:
    """Raise BadFile unless a concept fits a pipeline and what is on it."""
    unet = getattr(pipe, "unet", None)
    if unet is None:
        raise BadFile(
            f"{type(pipe).__name__} has no UNet, whose cross-attention a concept edits; load it "
            "into a pipeline of Stable Diffusion 1, 2 or XL"
        )
    layers = cross_projections(unet)
    found = {name for name in concept.tensors if name not in _VECTORS}
    found = {name for name in found if not name.startswith(_EMBEDDING)}
    values = {name for name in layers if name.endswith("to_v")}
    if not values <= found or not found <= layers.keys():
        odd = min(values ^ (found & values) or found - layers.keys())
        raise BadFile(
            f"its projections are not those of this {type(unet).__name__}: {odd} is only in one of "
            "them; it was made for another model"
        )
    width = unet.config.cross_attention_dim
    shapes = {name: tuple(tensor.shape) for name, tensor in concept.tensors.items()}
    expected = dict.fromkeys(_VECTORS, (width,))
    expected |= {name: (layers[name].out_features,) for name in found}
    for name, shape in expected.items():
        if shapes.get(name) != shape:
            raise BadFile(
                f"{name} has shape {shapes.get(name)}, expected {shape} for this "
                f"{type(unet).__name__}; it was made for another model"
            )
    energy = float(concept.tensors["i_star"] @ concept.tensors["c_inv_i_star"])
    if not energy > 0:
        raise BadFile(
            f"its i_star has an energy of {energy:g}, expected more than 0; train it anew"
        )
    for other in _on(pipe).values():
        if other.covariance != concept.covariance or other.clip_skip != concept.clip_skip:
            raise BadFile(
                f"it was trained with another covariance or clip_skip than {other.token!r}, which "
                "is on the pipeline; train both with one covariance file"
            )


def _lay_out(pipe: Any, concepts: dict[str, _Concept]) -> None:
    """Put exactly these concepts on the pipeline."""
    before = _APPLIED.pop(pipe.unet, None)
    if before is not None:
        before.stop()
    if not concepts:
        return
    ids = {token: pipe.tokenizer.convert_tokens_to_ids(token) for token in concepts}
    always = {token: not concept.only_when_present for token, concept in concepts.items()}
    locks = {
        token: concept.global_lock
        for token, concept in concepts.items()
        if concept.global_lock is not None
    }
    tokenizer = pipe.tokenizer

    def holds(prompt: str) -> Sequence[bool]:
        found = set(tokenizer(prompt).input_ids)
        return [always[token] or ids[token] in found for token in concepts]

    (clip_skip,) = {concept.clip_skip for concept in concepts.values()}
    replace = partial(replaced, tokenizer, others=locks) if locks else None
    watch = Watch(pipe, holds, clip_skip, replace)
    editing = Editing(pipe.unet, _edit(pipe.unet, list(concepts.values()), watch))
    _APPLIED[pipe.unet] = _Applied(concepts, editing, watch)


def _edit(unet: Any, concepts: Sequence[_Concept], watch: Watch) -> Edit:
    def rows(name: str) -> Tensor:
        return torch.stack([concept.tensors[name] for concept in concepts])

    locked = [projected(unet, concept.tensors["super_category"]) for concept in concepts]
    outputs = {
        name: torch.stack(
            [
                concept.tensors.get(name, own[name])
                for concept, own in zip(concepts, locked, strict=True)
            ]
        )
        for name in cross_projections(unet)
    }
    default = BETA if len(concepts) == 1 else BETA_OF_SEVERAL
    free = [concept.global_lock is None for concept in concepts]
    beta = [
        concept.beta if concept.beta is not None else default if own else BETA_OF_GLOBAL_LOCK
        for concept, own in zip(concepts, free, strict=True)
    ]
    tau = [concept.temperature for concept in concepts]
    return Edit(
        rows("i_star"),
        rows("c_inv_i_star"),
        outputs,
        torch.tensor(beta),
        torch.tensor(tau),
        watch.present,
        None if all(free) else watch.counterparts,
        torch.tensor(free),
    )
