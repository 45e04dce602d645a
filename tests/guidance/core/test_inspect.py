"""What ``inspect`` says of pipelines, bare denoisers and strangers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from guidance.core.inspect import inspect
from tests import tiny, tiny_families

MID = "mid_block.attentions.0.transformer_blocks.0"


def test_stable_diffusion(sd: Any) -> None:
    found = inspect(sd)
    assert (found.pipeline, found.denoiser) == ("StableDiffusionPipeline", "UNet2DConditionModel")
    assert found.known
    assert found.calls == "one call with rows uncond, cond"
    assert found.tokens == ("image",)
    assert found.softened == (f"{MID}.attn1",)
    assert found.skipped == (MID,)
    assert [layer.kind for layer in found.layers] == ["image", "cross"] * 4
    assert {layer.heads for layer in found.layers} == {8}


@pytest.mark.parametrize(
    ("family", "calls", "tokens"),
    [
        ("flux", "one call for each branch, cond first", ("text", "image")),
        ("ddpm", "one call with the cond rows only", ("image",)),
        ("hunyuan_video", "one call for each branch, cond first", ("image", "text")),
    ],
)
def test_calls_and_tokens(family: str, calls: str, tokens: tuple[str, ...]) -> None:
    found = inspect(tiny_families.FAMILIES[family]())
    assert (found.calls, found.tokens) == (calls, tokens)


def test_reads_as_a_table(sd3: Any) -> None:
    assert str(inspect(sd3)).splitlines() == [
        "SD3Transformer2DModel of StableDiffusion3Pipeline",
        "called as: one call with rows uncond, cond",
        "tokens in self-attention: image, text",
        "SoftPAG, PAG and SEG by default: transformer_blocks.1.attn",
        "SkipLayers by default: transformer_blocks.1",
        "layer                      heads  kind",
        "transformer_blocks.0.attn      4  joint",
        "transformer_blocks.1.attn      4  joint",
    ]


def test_survives_json(pipe: Any) -> None:
    facts = inspect(pipe).to_dict()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["layers"][0].keys() == {"path", "heads", "kind"}


def test_a_bare_denoiser(sd3: Any) -> None:
    whole, alone = inspect(sd3), inspect(sd3.transformer)
    assert alone.pipeline is None
    assert alone.layers == whole.layers
    assert str(alone).startswith("SD3Transformer2DModel\n")


def test_linear_attention_has_blocks_only() -> None:
    found = inspect(tiny_families.FAMILIES["sana"]())
    assert found.softened == ()
    assert found.skipped == ("transformer_blocks.1",)
    assert "SoftPAG, PAG and SEG by default: none" in str(found)


def test_a_stranger_is_listed_all_the_same() -> None:
    class Stranger(torch.nn.Module):
        """A denoiser that no family describes."""

    stranger = Stranger()
    stranger.body = tiny.sd3().transformer.transformer_blocks
    found = inspect(stranger)
    assert not found.known
    assert found.calls == ""
    assert [layer.path for layer in found.layers] == ["body.0.attn", "body.1.attn"]
    assert str(found).startswith("Stranger, which guide does not know\ntokens")


def test_neither_pipeline_nor_denoiser() -> None:
    with pytest.raises(TypeError, match="expected a diffusers pipeline or denoiser, found int"):
        inspect(3)
