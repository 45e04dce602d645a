"""Attention layers: what is found in each family, what selectors name, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    FluxTransformer2DModel,
    LTXVideoTransformer3DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)

from guidance.core.heads import (
    check_selectors,
    default_blocks,
    default_layers,
    resolve,
    resolve_blocks,
    resolve_layers,
)
from guidance.core.layers import layers_of
from tests import tiny_families
from tests.guidance import bare

MID = "mid_block.attentions.0.transformer_blocks.0.attn1"


def named(model: Any, selectors: Any) -> list[tuple[str, tuple[int, ...]]]:
    return [(each.layer.path, each.heads) for each in resolve(model, selectors)]


def large(cls: type, **settings: Any) -> Any:
    """A model at its published size, without memory for its weights."""
    with torch.device("meta"):
        return cls(**settings)


@pytest.mark.parametrize(
    ("build", "kinds"),
    [
        (bare.unet, {"attn1": "image", "attn2": "cross"}),
        (bare.ddpm, {"0": "image", "1": "image"}),
        (bare.added, {"0": "joint", "1": "joint"}),
        (bare.sd3, {"attn": "joint"}),
        (bare.sd35, {"attn": "joint", "attn2": "image"}),
        (bare.flux, {"attn": "joint"}),
        (bare.pixart, {"attn1": "image", "attn2": "cross"}),
    ],
)
def test_kinds_and_head_counts(build: Any, kinds: dict[str, str]) -> None:
    layers = layers_of(build().model)
    assert {layer.path.split(".")[-1]: layer.kind for layer in layers} == kinds
    assert all(layer.heads == layer.module.heads for layer in layers)


def test_flux_and_sd3_at_their_published_size() -> None:
    flux, sd3 = large(FluxTransformer2DModel), large(SD3Transformer2DModel, num_layers=24)
    assert sum(layer.heads for layer in layers_of(flux)) == (19 + 38) * 24
    assert default_layers(flux) == ("single_transformer_blocks.9",)
    assert default_layers(sd3) == ("transformer_blocks.13",)
    assert default_blocks(sd3) == tuple(f"transformer_blocks.{index}" for index in (7, 8, 9))
    assert default_layers(large(PixArtTransformer2DModel)) == ("transformer_blocks.14",)
    assert default_layers(large(UNet2DConditionModel)) == ("mid_block",)


def test_defaults_are_clipped_to_what_exists() -> None:
    assert default_layers(bare.sd3().model) == ("transformer_blocks.2",)
    assert default_blocks(bare.sd3().model) == ("transformer_blocks.2",)
    assert default_layers(bare.pixart().model) == ("transformer_blocks.2",)


def test_a_name_is_whole() -> None:
    sd3 = large(SD3Transformer2DModel, num_layers=12)
    assert named(sd3, "transformer_blocks.1")[0][0] == "transformer_blocks.1.attn"
    assert len(named(sd3, "transformer_blocks.1")) == 1
    assert len(named(sd3, "transformer_blocks.1*")) == 3
    with pytest.raises(ValueError, match=r"no attention layer 'blocks\.1'.*transformer_blocks\.1"):
        resolve(sd3, "blocks.1")


def test_wildcards_stay_within_dots() -> None:
    model = bare.unet().model
    everything = tuple(range(4))
    assert named(model, "mid_block*") == [(MID, everything)]
    assert named(model, "mid") == named(model, "mid_block") == named(model, MID)
    assert len(named(model, "up_blocks.0.attentions.*")) == 2
    assert len(named(model, "*_blocks.*.attentions.*.transformer_blocks.0.attn1")) == 3
    with pytest.raises(ValueError, match="no attention layer"):
        resolve(model, "*.attn1")


def test_heads_by_number() -> None:
    model = bare.unet().model
    assert named(model, "mid:3") == named(model, ("mid", 3)) == [(MID, (3,))]
    mixed = (("mid", 3), "mid:1", "up_blocks.0.attentions.1")
    assert [heads for _, heads in named(model, mixed)] == [(3,), (1,), tuple(range(4))]
    assert len(named(model, "up_blocks.*:0")) == 2
    with pytest.raises(ValueError, match=f"{MID} has heads 0 to 3, found 4"):
        resolve(model, "mid:4")


@pytest.mark.parametrize("twice", [("mid", "mid_block*"), ("mid:1", ("mid", 1)), ("mid", "mid:0")])
def test_a_head_is_selected_once(twice: Any) -> None:
    with pytest.raises(ValueError, match=f"of {MID} a second time"):
        resolve(bare.unet().model, twice)


def test_text_layers_are_refused_by_name() -> None:
    model = bare.unet().model
    with pytest.raises(ValueError, match=r"attn2 is cross-attention: .*nearest of 4"):
        resolve(model, MID.replace("attn1", "attn2"))
    with pytest.raises(ValueError, match="attn2 is cross-attention"):
        resolve(bare.pixart().model, "transformer_blocks.*.attn2")
    assert named(bare.sd35().model, "transformer_blocks.0.attn2")
    video = large(LTXVideoTransformer3DModel, num_layers=2)
    assert [layer.kind for layer in layers_of(video)] == ["image", "cross"] * 2


@pytest.mark.parametrize(
    ("family", "path", "kind"),
    [
        ("sana", "transformer_blocks.0.attn1", "linear"),
        ("lumina2", "context_refiner.0.attn", "text"),
        ("lumina2", "noise_refiner.0.attn", "image"),
        ("hunyuan_video", "context_embedder.token_refiner.refiner_blocks.0.attn", "text"),
        ("kandinsky5", "visual_transformer_blocks.0.cross_attention", "cross"),
    ],
)
def test_kinds_of_the_current_generation(family: str, path: str, kind: str) -> None:
    model = tiny_families.FAMILIES[family]().transformer
    assert {layer.path: layer.kind for layer in layers_of(model)}[path] == kind


def test_linear_attention_is_refused_with_the_reason() -> None:
    model = tiny_families.FAMILIES["sana"]().transformer
    for selectors in ("auto", "transformer_blocks.0"):
        with pytest.raises(ValueError, match="linear attention, which has no attention map"):
            resolve(model, selectors)
    assert list(resolve_blocks(model, "auto")) == ["transformer_blocks.1"]


def test_a_model_without_attention() -> None:
    with pytest.raises(ValueError, match="Linear has no self-attention that can be perturbed"):
        resolve(torch.nn.Linear(2, 2), "auto")
    with pytest.raises(ValueError, match="Linear has no attention layer 'mid'; Linear has no self"):
        resolve(torch.nn.Linear(2, 2), "mid")


def test_layers_and_blocks() -> None:
    model = bare.unet().model
    assert [layer.path for layer in resolve_layers(model, ("mid", "mid_block"))] == [MID]
    assert list(resolve_blocks(model, "mid")) == [MID.removesuffix(".attn1")]
    pixels = resolve_blocks(bare.ddpm().model, "mid")
    assert list(pixels) == ["mid_block.attentions.0"]
    assert list(resolve_blocks(bare.sd35().model, "transformer_blocks.0.attn")) == [
        "transformer_blocks.0"
    ]


def test_layers_are_listed_once_per_model() -> None:
    model = bare.unet().model
    assert layers_of(model) is layers_of(model)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("mid", "mid"),
        (["mid", 3], ("mid", 3)),
        ([["mid", 3], "up_blocks.0:1"], (("mid", 3), "up_blocks.0:1")),
    ],
)
def test_lists_become_tuples(given: Any, kept: Any) -> None:
    assert check_selectors("Rule", "heads", given) == kept


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (3, TypeError, "Rule: heads must be a layer such as 'mid'"),
        ((("mid", True),), TypeError, "Rule: heads must be a layer"),
        ((("mid", 1.5),), TypeError, "Rule: heads must be a layer"),
        ((), ValueError, "Rule: heads must select something"),
        ("", ValueError, "impossible layer or head"),
        ("mid:one", ValueError, "impossible layer or head"),
        (("mid", -1), ValueError, "impossible layer or head"),
    ],
)
def test_impossible_selectors_raise(bad: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_selectors("Rule", "heads", bad)


def test_whole_layers_take_no_numbers() -> None:
    with pytest.raises(ValueError, match=r"layers takes whole layers, found head 3 of 'mid'"):
        check_selectors("Rule", "layers", "mid:3", numbered=False)
