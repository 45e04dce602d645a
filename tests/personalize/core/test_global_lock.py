"""Keys of the whole prompt with the super-category in place of the word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from guidance import CFG, guide
from personalize.core.concepts import gate_table
from personalize.core.loading import load, unload
from personalize.core.projections import cross_projections
from tests.personalize.core.test_concepts import concept
from tests.tiny import sample, sd, sdxl

MAKERS = {"sd": sd, "sdxl": sdxl}


@contextmanager
def _recorded(pipe: Any) -> Iterator[dict[str, list[Tensor]]]:
    """What every projection of the text makes, call by call, and the queries that meet it."""
    found: dict[str, list[Tensor]] = {}
    layers = dict(cross_projections(pipe.unet))
    layers |= {
        f"{name}.to_q": module.to_q
        for name, module in pipe.unet.named_modules()
        if name.endswith("attn2")
    }

    def keep(name: str) -> Any:
        return lambda module, args, output: found.setdefault(name, []).append(output)

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _texts(pipe: Any, prompt: list[str], part: str, **call: Any) -> dict[str, Tensor]:
    """Keys (``to_k``) or values (``to_v``) in the first step of a picture."""
    with _recorded(pipe) as found:
        sample(pipe, prompt=prompt, batch=len(prompt), **call)
    return {name: outputs[0] for name, outputs in found.items() if name.endswith(part)}


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("word", ["y", "fox"])
@pytest.mark.parametrize("name", list(MAKERS))
def test_keys_are_those_of_the_prompt_with_the_super_category(name: str, word: str) -> None:
    """Of one token and of several, wherever the word stands and however it is written."""
    pipe = MAKERS[name]()
    prompt, wider = "a <C> on <c>, x", f"a {word} on {word}, x"
    plain = _texts(pipe, [wider], "to_k")
    load(pipe, concept(pipe, super_category=word), global_lock=True)
    assert _equal(_texts(pipe, [prompt], "to_k"), plain)
    with guide(pipe, CFG()):
        assert _equal(_texts(pipe, [prompt], "to_k"), plain)
    unload(pipe)


def test_attention_goes_where_the_super_category_goes() -> None:
    """In the first layer, whose queries have not seen the concept: the logits are the same."""
    pipe = sd()
    logits = []
    for word in ("y", "<c>"):
        if word == "<c>":
            load(pipe, concept(pipe, super_category="y"), global_lock=True)
        with _recorded(pipe) as found:
            sample(pipe, prompt=[f"a {word} x"])
        layer = next(name.removesuffix(".to_k") for name in found if name.endswith("to_k"))
        queries, keys = found[f"{layer}.to_q"][0], found[f"{layer}.to_k"][0]
        logits.append(queries @ keys.transpose(1, 2))
    unload(pipe)
    assert torch.equal(*logits)


@pytest.mark.parametrize("name", list(MAKERS))
def test_values_are_those_of_the_local_lock(name: str) -> None:
    pipe = MAKERS[name]()
    values, keys = [], []
    for lock in (False, True):
        load(pipe, concept(pipe, super_category="y"), beta=0.6, global_lock=lock)
        values.append(_texts(pipe, ["a <c> x"], "to_v"))
        keys.append(_texts(pipe, ["a <c> x"], "to_k"))
        unload(pipe)
    assert _equal(*values) and not _equal(*keys)


def test_it_opens_the_gate_further_unless_told() -> None:
    pipe = sd()
    gates = []
    choices: tuple[dict[str, Any], ...] = ({}, {"beta": 0.5}, {"beta": 0.7})
    for controls in choices:
        load(pipe, concept(pipe, super_category="y"), global_lock=True, **controls)
        gates.append(gate_table(pipe, "a <c>"))
        unload(pipe)
    assert gates[0] == gates[1] != gates[2]


@pytest.mark.parametrize("name", list(MAKERS))
def test_prompts_without_the_word_keep_their_pictures(name: str) -> None:
    pipe = MAKERS[name]()
    before = sample(pipe, batch=2)
    load(pipe, concept(pipe, super_category="fox"), global_lock=True)
    assert torch.equal(sample(pipe, batch=2), before)
    with guide(pipe, CFG()):
        assert torch.equal(sample(pipe, batch=2), before)
    mixed = sample(pipe, prompt=["red fox", "a <c>"], batch=2)
    torch.testing.assert_close(mixed[0], before[0])
    assert not torch.allclose(mixed[1], before[1], atol=1e-3)
    unload(pipe)
    assert torch.equal(sample(pipe, batch=2), before)


def test_negative_prompts_are_locked_too() -> None:
    pipe = sd()
    plain = _texts(pipe, ["red"], "to_k", negative_prompt=["a y"])
    load(pipe, concept(pipe, super_category="y"), global_lock=True)
    assert _equal(_texts(pipe, ["red"], "to_k", negative_prompt=["a <c>"]), plain)
    unload(pipe)


def test_both_prompts_of_stable_diffusion_xl_are_locked() -> None:
    pipe = sdxl()
    plain = _texts(pipe, ["a y"], "to_k", prompt_2=["y"])
    load(pipe, concept(pipe, super_category="y"), global_lock=True)
    assert _equal(_texts(pipe, ["a <c>"], "to_k", prompt_2=["<c>"]), plain)
    unload(pipe)


def test_several_concepts_are_replaced_each_by_its_own() -> None:
    pipe = sd()
    plain = _texts(pipe, ["y and fox"], "to_k")
    load(pipe, concept(pipe, "<a>", 1, super_category="y"), global_lock=True)
    load(pipe, concept(pipe, "<b>", 2, super_category="fox"), global_lock=True)
    assert _equal(_texts(pipe, ["<a> and <b>"], "to_k"), plain)
    assert list(gate_table(pipe, "<a> and <b>")) == ["<a>", "<b>"]
    unload(pipe)


def test_a_concept_beside_it_keeps_its_local_lock() -> None:
    """On the encoding that has the super-category of the other."""
    pipe = sd()
    one = concept(pipe, "<a>", 1, super_category="y")
    two = concept(pipe, "<b>", 2)
    load(pipe, two, beta=0.6)
    alone = _texts(pipe, ["y and <b>"], "to_k")
    unload(pipe)
    load(pipe, one, global_lock=True)
    load(pipe, two, beta=0.6)
    both = _texts(pipe, ["<a> and <b>"], "to_k")
    unload(pipe)
    for name, keys in alone.items():
        torch.testing.assert_close(both[name], keys, rtol=1e-4, atol=1e-5)


def test_encodings_without_a_text_are_refused() -> None:
    pipe = sd()
    embeds, negatives = pipe.encode_prompt("a fox", "cpu", 1, True)
    artifact = concept(pipe, super_category="y")
    load(pipe, artifact, global_lock=True)
    given: dict[str, Any] = {"prompt": None, "negative_prompt": None}
    with pytest.raises(ValueError, match="global_lock needs the text of every prompt"):
        sample(pipe, prompt_embeds=embeds, negative_prompt_embeds=negatives, **given)
    embeds, negatives = pipe.encode_prompt("a <c>", "cpu", 1, True)
    own = sample(pipe, prompt_embeds=embeds, negative_prompt_embeds=negatives, **given)
    assert torch.equal(own, sample(pipe, prompt=["a <c>"], negative_prompt=None))
    unload(pipe)


@pytest.mark.parametrize("word", [None, " "])
def test_a_file_without_a_super_category_is_refused(word: str | None) -> None:
    pipe = sd()
    artifact = concept(pipe)
    if word is not None:
        artifact = replace(artifact, metadata={**artifact.metadata, "super_category": word})
    with pytest.raises(ValueError, match=r"super.category"):
        load(pipe, artifact, global_lock=True)
    assert len(pipe.tokenizer) == len(sd().tokenizer)
