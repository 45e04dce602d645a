"""Concepts on pipelines: what they change, what they leave, and how they come off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guidance import CFG, guide
from personalize.core.artifact import Artifact
from personalize.core.concepts import gate_table
from personalize.core.loading import load, unload
from personalize.core.projections import cross_projections
from tests.tiny import dit, sample, sd, sdxl

MAKERS = {"sd": sd, "sdxl": sdxl}


def concept(pipe: Any, token: str = "<c>", seed: int = 0, **about: str) -> Artifact:
    """A concept made up for a pipeline."""
    generator = torch.Generator().manual_seed(seed)
    width = pipe.unet.config.cross_attention_dim

    def rand(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    root = torch.randn(width, width, generator=torch.Generator().manual_seed(99))
    c_inv = root @ root.T / width + torch.eye(width)
    i_star = rand(width)
    encoders = {"clip_l": pipe.text_encoder, "clip_g": getattr(pipe, "text_encoder_2", None)}
    tensors = {
        f"embedding.{key}": rand(1, encoder.get_input_embeddings().embedding_dim)
        for key, encoder in encoders.items()
        if encoder is not None
    }
    tensors |= {"i_star": i_star, "c_inv_i_star": c_inv @ i_star, "super_category": rand(width)}
    tensors |= {
        name: rand(layer.out_features)
        for name, layer in cross_projections(pipe.unet).items()
        if name.endswith("to_v")
    }
    metadata = {"token": token, "covariance": "c", "clip_skip": "null"}
    return Artifact("perfusion", tensors, metadata | about)


def _state(pipe: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        f"{name}.{key}": value.clone()
        for name, part in pipe.components.items()
        if isinstance(part, torch.nn.Module)
        for key, value in part.state_dict().items()
    }
    hooks = [m for m in pipe.unet.modules() if m._forward_hooks or m._forward_pre_hooks]
    return found | {"hooks": len(hooks), "names": sorted(vars(pipe)), "vocab": len(pipe.tokenizer)}


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) if isinstance(value, Tensor) else value == other[key]
        for key, value in one.items()
    )


@pytest.mark.parametrize("name", list(MAKERS))
def test_prompts_without_the_word_keep_their_pictures(name: str) -> None:
    pipe = MAKERS[name]()
    before, state = sample(pipe, batch=2), _state(pipe)
    load(pipe, concept(pipe))
    assert torch.equal(sample(pipe, batch=2), before)
    mixed = sample(pipe, prompt=["red fox", "a <c>"], batch=2)
    torch.testing.assert_close(mixed[0], before[0])
    assert not torch.allclose(mixed[1], before[1], atol=1e-3)
    unload(pipe)
    assert torch.equal(sample(pipe, batch=2), before) and _same(_state(pipe), state)


def test_all_prompts_change_if_asked() -> None:
    pipe = sd()
    before = sample(pipe)
    load(pipe, concept(pipe), only_when_present=False)
    assert not torch.equal(sample(pipe), before)
    unload(pipe)
    assert torch.equal(sample(pipe), before)


def test_the_gate_is_the_slider() -> None:
    pipe = sd()
    shares = {}
    for beta in (-1e3, 0.3, 0.7, 1e3):
        load(pipe, concept(pipe), beta=beta)
        table = gate_table(pipe, "a <c> x")["<c>"]
        assert [token for token, _ in table][2] == "<c>"
        shares[beta] = sum(gate for _, gate in table)
        unload(pipe)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert shares[-1e3] == pytest.approx(5) and shares[1e3] == pytest.approx(0)
    load(pipe, concept(pipe), beta=0.7, temperature=10.0)
    soft = [gate for _, gate in gate_table(pipe, "a <c> x")["<c>"]]
    assert max(soft) - min(soft) < 0.2
    unload(pipe)


def test_two_concepts_share_a_picture_and_come_off_in_any_order(tmp_path: Path) -> None:
    pipe = sd()
    before, state = sample(pipe), _state(pipe)
    one, two = concept(pipe, "<a>", 1), concept(pipe, "<b>", 2)
    (path,) = two.save(tmp_path)
    load(pipe, one)
    alone = sample(pipe, prompt=["<a> x"])
    load(pipe, path, beta=0.6)
    assert list(gate_table(pipe, "<a> <b>")) == ["<a>", "<b>"]
    both = sample(pipe, prompt=["<a> <b>"])
    assert torch.equal(sample(pipe), before)
    unload(pipe, "<b>")
    assert torch.equal(sample(pipe, prompt=["<a> x"]), alone)
    load(pipe, two, beta=0.6)
    unload(pipe, "<a>")
    load(pipe, one)
    torch.testing.assert_close(sample(pipe, prompt=["<a> <b>"]), both, rtol=1e-3, atol=1e-4)
    unload(pipe)
    assert torch.equal(sample(pipe), before) and _same(_state(pipe), state)


def test_locked_keys_are_those_of_the_pipeline_itself() -> None:
    """A file with the super-category's keys in it does what one without them does."""
    pipe, short = sd(), concept(sd())
    keys = {
        name: layer.weight.detach() @ short.tensors["super_category"]
        for name, layer in cross_projections(pipe.unet).items()
        if name.endswith("to_k")
    }
    long = replace(short, tensors={**short.tensors, **keys})
    pictures = []
    for artifact in (short, long):
        load(pipe, artifact)
        pictures.append(sample(pipe, prompt=["a <c>"]))
        unload(pipe)
    torch.testing.assert_close(*pictures)


def test_it_works_inside_guide() -> None:
    pipe = sd()
    load(pipe, concept(pipe))
    plain = sample(pipe, prompt=["a <c>"])
    with guide(pipe, CFG()):
        assert torch.equal(sample(pipe, prompt=["a <c>"]), plain)
    unload(pipe)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"i_star": torch.ones(7)}, r"i_star has shape \(7,\), expected \(32,\)"),
        ({"c_inv_i_star": -torch.ones(32), "i_star": torch.ones(32)}, "energy of -32"),
        ({"mid_block.attn2.to_v": torch.ones(4)}, "mid_block.attn2.to_v is only in one"),
        ({"embedding.clip_l": torch.ones(1, 5)}, "have width 5"),
    ],
)
def test_what_does_not_fit_is_refused_whole(changes: dict[str, Tensor], message: str) -> None:
    pipe = sd()
    state, artifact = _state(pipe), concept(pipe)
    with pytest.raises(ValueError, match=message):
        load(pipe, replace(artifact, tensors={**artifact.tensors, **changes}))
    assert _same(_state(pipe), state)


def test_other_models_and_metrics_are_refused() -> None:
    pipe = sd()
    with pytest.raises(ValueError, match=r"is only in one of them|width|shape"):
        load(sdxl(), concept(pipe))
    with pytest.raises(ValueError, match="no UNet"):
        load(dit(), concept(pipe))
    load(pipe, concept(pipe))
    state = _state(pipe)
    with pytest.raises(ValueError, match="another covariance or clip_skip than '<c>'"):
        load(pipe, concept(pipe, "<d>", covariance="other"))
    assert _same(_state(pipe), state)
    with pytest.raises(ValueError, match="trained with clip_skip=None, found clip_skip=1"):
        sample(pipe, clip_skip=1)
    unload(pipe)


@pytest.mark.parametrize(
    ("controls", "kind", "message"),
    [
        ({"temperature": 0.0}, ValueError, "temperature must be a finite number above 0"),
        ({"beta": float("nan")}, ValueError, "beta must be a finite number"),
        ({"strength": 1.0}, TypeError, "no control 'strength'; it has beta, temperature"),
    ],
)
def test_controls_are_checked(controls: Any, kind: type[Exception], message: str) -> None:
    pipe = sd()
    with pytest.raises(kind, match=message):
        load(pipe, concept(pipe), **controls)
    assert len(pipe.tokenizer) == len(sd().tokenizer)


def test_a_table_needs_a_concept() -> None:
    with pytest.raises(ValueError, match="no concept of Perfusion is on the pipeline"):
        gate_table(sd(), "a fox")


def test_metadata_that_is_not_there_is_named() -> None:
    artifact = concept(sd())
    with pytest.raises(ValueError, match=r"metadata lacks.*'covariance'"):
        load(sd(), replace(artifact, metadata={"token": "<c>", "clip_skip": "null"}))
