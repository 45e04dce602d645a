"""Skipped blocks: the identity on the perturbed rows, whatever a block takes and returns."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guidance import CFG, Rule, guide, parse_rule
from guidance.core.heads import resolve_blocks
from guidance.skip_layers import _TEXT_FIRST, SkipLayers, Skipped
from tests import tiny, tiny_families
from tests.guidance import bare
from tests.tiny import close

SKIPPABLE = [name for name in tiny_families.FAMILIES if name != "stable_cascade"]  # mixed keys


def without(model: bare.Bare, path: str) -> Tensor:
    """The model with a block replaced by the identity in its own code, for all rows."""
    parent, _, name = path.rpartition(".")
    holder: Any = model.model.get_submodule(parent)
    block = holder[int(name)]

    class Identity(nn.Module):
        context_pre_only = getattr(block, "context_pre_only", None)

        def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            text = kwargs.get("encoder_hidden_states")
            return (text, hidden_states) if model.text else hidden_states

    holder[int(name)] = Identity()
    try:
        return model.run()
    finally:
        holder[int(name)] = block


@pytest.mark.parametrize(
    ("build", "path"),
    [
        (bare.unet, "mid_block.attentions.0.transformer_blocks.0"),
        (bare.ddpm, "up_blocks.0.attentions.1"),
        (bare.pixart, "transformer_blocks.1"),
        (bare.sd3, "transformer_blocks.1"),
        (bare.sd35, "transformer_blocks.0"),
        (bare.flux, "transformer_blocks.1"),
        (bare.flux, "single_transformer_blocks.0"),
        (lambda: bare.flux(tokens=5), "transformer_blocks.0"),
        (lambda: bare.flux(tokens=5), "single_transformer_blocks.1"),
    ],
)
def test_a_skipped_block_is_not_there(build: Any, path: str) -> None:
    model = build()
    skipped, plain = model.run(Skipped(path)), model.run()
    torch.testing.assert_close(skipped[1], without(model, path)[1], rtol=0, atol=1e-10)
    assert torch.equal(skipped[[0, 2]], plain[[0, 2]])
    assert not torch.allclose(skipped[1], plain[1], atol=1e-4)
    assert bare.hooks_of(model.model) == 0


def test_the_last_block_of_sd3_returns_no_text() -> None:
    model = bare.sd3()
    plain = model.inside("transformer_blocks.2")
    skipped = model.inside("transformer_blocks.2", Skipped("transformer_blocks.2"))
    assert plain[0] is skipped[0] is None
    before = model.inside("transformer_blocks.1")[1]
    torch.testing.assert_close(skipped[1][1], before[1])
    assert torch.equal(skipped[1][0], plain[1][0])


@pytest.mark.parametrize("family", SKIPPABLE)
def test_every_block_of_every_family_can_be_skipped(family: str) -> None:
    tiny_family = tiny_families.FAMILIES[family]
    pipe = tiny_family()
    model = getattr(pipe, "transformer", None) or pipe.unet
    stacks = {f"{path.split('.')[0]}" for path in resolve_blocks(model, "*")}
    plain = tiny_family.call(pipe, scale=tiny_family.off)
    for stack in stacks:
        with guide(pipe, SkipLayers(2.0, layers=stack)):
            skipped = tiny_family.call(pipe, scale=tiny_family.off)
        assert skipped.isfinite().all()
        assert not torch.allclose(skipped, plain, atol=1e-5)
    assert torch.equal(tiny_family.call(pipe, scale=tiny_family.off), plain)


def test_nothing_is_left_behind_by_an_error() -> None:
    model = bare.sd3()

    def fail(*_: Any) -> None:
        raise RuntimeError("inside")

    with bare.hooked(model.model.proj_out, fail), pytest.raises(RuntimeError, match="inside"):
        model.run(Skipped())
    assert bare.hooks_of(model.model) == 0


class Halved(nn.Module):
    """A block whose output has another shape than its input."""

    def forward(self, hidden_states: Tensor, **rest: Any) -> Tensor:
        return hidden_states[:, ::2]


def test_a_block_that_changes_the_shape_cannot_be_skipped() -> None:
    model = bare.pixart()
    halved: Any = Halved()
    halved.attn1 = model.model.transformer_blocks[1].attn1
    model.model.transformer_blocks[1] = halved
    with pytest.raises(ValueError, match=r"blocks\.1 cannot be skipped: no input has the shape"):
        model.run(Skipped("transformer_blocks.1"))


@pytest.mark.parametrize("family", SKIPPABLE)
def test_image_and_text_of_equal_length_are_told_apart(family: str) -> None:
    pipe = tiny_families.FAMILIES[family]()
    model = getattr(pipe, "transformer", None) or pipe.unet
    for block in resolve_blocks(model, "*").values():
        source = inspect.getsource(type(block).forward)
        (*_, last) = re.findall(r"return (.*)", source)
        returned = last.split(", ")
        if len(returned) > 1:
            text_first = returned == ["encoder_hidden_states", "hidden_states"]
            assert text_first or returned == ["hidden_states", "encoder_hidden_states"]
            assert type(block).__name__.startswith(_TEXT_FIRST) == text_first


def test_is_the_skip_layer_guidance_of_diffusers() -> None:
    pipe = tiny.sd3()
    settings: dict[str, Any] = {
        "skip_guidance_layers": [0],
        "skip_layer_guidance_scale": 2.0,
        "skip_layer_guidance_start": -1.0,
        "skip_layer_guidance_stop": 1.0,
    }
    theirs = tiny.sample(pipe, scale=4.0, **settings)
    with guide(pipe, CFG(4.0) + SkipLayers(2.0, layers="transformer_blocks.0")):
        close(tiny.sample(pipe, scale=4.0), theirs)


def test_runs_beside_the_pipelines_guidance(pipe: Any) -> None:
    native = tiny.sample(pipe, scale=3.0, batch=2)
    rule = CFG(3.0) + SkipLayers(2.0).between(0.0, 0.5)
    with guide(pipe, rule) as run:
        joint = tiny.sample(pipe, batch=2)
        close(tiny.sample(pipe)[0], joint[0])
    assert [record.evaluations for record in run.report.steps] == [3, 3, 2, 2] * 2
    assert not torch.allclose(joint, native, atol=1e-3)
    with guide(pipe, rule, batching="sequential"):
        close(tiny.sample(pipe, batch=2), joint)


def test_neutral_settings_cost_nothing(sd: Any) -> None:
    plain = tiny.sample(sd, scale=1.0)
    with guide(sd, SkipLayers(0.0)) as run:
        assert torch.equal(tiny.sample(sd), plain)
    assert run.report.nfe == 4


@pytest.mark.parametrize("rule", [SkipLayers(), SkipLayers(2.0, layers=("mid", "up_blocks.0"))])
def test_settings_survive_text_and_json(rule: Rule) -> None:
    assert Rule.from_config(json.loads(json.dumps(rule.to_config()))) == rule
    assert parse_rule(repr(rule)) == rule


def test_impossible_settings_raise(sd: Any) -> None:
    with pytest.raises(ValueError, match="SkipLayers: layers takes whole layers"):
        SkipLayers(layers="mid:0")
    with pytest.raises(ValueError, match=r"no attention layer 'blocks\.7'"):
        guide(sd, SkipLayers(layers="blocks.7"))
