"""Perfusion: what it starts from, what it trains, what it leaves alone, and its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from personalize.core.artifact import Artifact
from personalize.core.backbone import Backbone
from personalize.core.backbones import backbone_of
from personalize.core.loading import load, unload
from personalize.core.projections import cross_projections
from personalize.covariance import Covariance, estimate_covariance
from personalize.perfusion import Perfusion
from tests.personalize.test_textual_inversion import batch, context, weights
from tests.tiny import sample, sd, sd3, sdxl

PROMPTS = ("a {}", "my {} x", "{}")
MAKERS = {"sd": sd, "sdxl": sdxl}


def _covariance(pipe: Any) -> Covariance:
    return estimate_covariance(pipe, ("red fox", "cat", "a dog", "my hat", "x") * 20)


def _started(pipe: Any, **settings: Any) -> tuple[Any, Backbone]:
    begun = context(pipe, PROMPTS)
    settings = {"covariance": _covariance(pipe)} | settings
    return Perfusion("<c>", "fox", **settings).start(begun), begun.backbone


def _trained(pipe: Any, steps: int = 4, lr: float = 0.03, **settings: Any) -> tuple[Any, list[Any]]:
    """A trained edit, and its losses on one batch."""
    training, backbone = _started(pipe, **settings)
    groups = [
        {"params": [value], "lr": lr * training.groups.get(name, 1.0)}
        for name, value in training.parameters.items()
    ]
    optimizer, losses = torch.optim.Adam(groups), []
    for step in range(steps):
        loss = training.loss(batch(backbone, 0, PROMPTS)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        training.after_step(step + 1)
        losses.append(float(loss.detach()))
    return training, losses


def _encoding(pipe: Any, word: str) -> Tensor:
    """Mean over the prompts of the encoding at a word's last token, one prompt at a time."""
    rows = []
    for prompt in PROMPTS:
        before = pipe.tokenizer(prompt.partition("{}")[0], add_special_tokens=False).input_ids
        own = pipe.tokenizer(word, add_special_tokens=False).input_ids
        embeds = backbone_of(pipe).encode([prompt.replace("{}", word)]).embeds[0]
        rows.append(embeds[len(before) + len(own)].detach())
    return torch.stack(rows).mean(0)


@pytest.mark.parametrize("name", list(MAKERS))
def test_it_starts_as_the_super_category(name: str) -> None:
    pipe = MAKERS[name]()
    training, backbone = _started(pipe)
    artifact = training.artifact()
    training.stop()
    expected = _encoding(pipe, "fox")
    torch.testing.assert_close(artifact.tensors["i_star"], expected)
    torch.testing.assert_close(artifact.tensors["super_category"], expected)
    c_inv = _covariance(pipe).matrix.inverse()
    weighted = (c_inv @ expected.double()).float()
    torch.testing.assert_close(artifact.tensors["c_inv_i_star"], weighted, rtol=1e-3, atol=1e-3)
    for layer, projection in cross_projections(pipe.unet).items():
        if layer.endswith("to_v"):
            value = projection.weight.detach() @ expected
            torch.testing.assert_close(artifact.tensors[layer], value)
    (encoder, *_) = backbone.text_encoders
    last = encoder.tokenizer("fox", add_special_tokens=False).input_ids[-1]
    assert torch.equal(artifact.tensors["embedding.clip_l"][0], encoder.table[last])


@pytest.mark.parametrize("key_lock", [True, False])
@pytest.mark.parametrize("name", list(MAKERS))
def test_only_the_embedding_and_the_outputs_move(name: str, key_lock: bool) -> None:
    pipe = MAKERS[name]()
    before, words = weights(pipe), pipe.tokenizer.get_vocab()
    training, losses = _trained(pipe, key_lock=key_lock)
    artifact = training.artifact()
    training.stop()
    assert losses[-1] < losses[0]
    after = weights(pipe)
    assert after.keys() == before.keys() and pipe.tokenizer.get_vocab() == words
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in pipe.unet.modules())
    layers = cross_projections(pipe.unet)
    trained = [name for name in layers if name.endswith("to_v") or not key_lock]
    assert [name for name in artifact.tensors if name in layers] == trained
    for layer in trained:
        start = layers[layer].weight.detach() @ artifact.tensors["super_category"]
        assert float((artifact.tensors[layer] - start).abs().min()) > 0


def test_the_target_input_follows_the_placeholder() -> None:
    """n steps on equal encodings leave the share ``ema^n`` of the way."""
    training, _ = _trained(sd(), steps=3, lr=0.0, ema=0.9)
    artifact = training.artifact()
    training.stop()
    pipe = sd()
    start = _encoding(pipe, "fox")
    load(
        pipe,
        Artifact(
            "textual-inversion", {"clip_l": artifact.tensors["embedding.clip_l"]}, {"token": "<c>"}
        ),
    )
    there = _encoding(pipe, "<c>")
    left = 0.9**3
    torch.testing.assert_close(artifact.tensors["i_star"], left * start + (1 - left) * there)


def test_a_loss_that_is_only_looked_at_moves_nothing() -> None:
    training, backbone = _started(sd())
    with torch.no_grad():
        training.loss(batch(backbone, 1, PROMPTS))
    training.loss(batch(backbone, 0, PROMPTS))
    training.after_step(1)
    moved = training.artifact().tensors["i_star"]
    training.stop()
    other, backbone = _started(sd())
    other.loss(batch(backbone, 0, PROMPTS))
    other.after_step(1)
    assert torch.equal(moved, other.artifact().tensors["i_star"])
    other.stop()


def test_gradients_are_those_of_finite_differences() -> None:
    pipe = sd()
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.double()
    training, backbone = _started(pipe)
    one = batch(backbone, 0, PROMPTS)
    one = type(one)(**{**vars(one), "noisy": one.noisy.double(), "target": one.target.double()})
    for parameter in training.parameters.values():
        parameter.data = parameter.data.double()

    def loss() -> Tensor:
        # Not one.error, which is in float32.
        prompts = [prompt.replace("{}", "<c>") for prompt in one.prompts]
        encoded = training._placeholder.encode(prompts)
        predicted = backbone.predict(one.noisy, one.timesteps, encoded)
        return (predicted - one.target).square().mean()

    loss().backward()
    for name in ("embedding.clip_l", next(n for n in training.parameters if "to_v" in n)):
        parameter = training.parameters[name]
        assert parameter.grad is not None
        with torch.no_grad():
            for place in (0, 3):
                parameter[0, place] += 1e-3
                above = float(loss())
                parameter[0, place] -= 2e-3
                below = float(loss())
                parameter[0, place] += 1e-3
                slope = (above - below) / 2e-3
                assert float(parameter.grad[0, place]) == pytest.approx(slope, rel=1e-2, abs=1e-6)
    training.stop()


def test_a_restored_state_goes_on_as_before() -> None:
    """Also in the middle of a step."""
    whole, _ = _trained(sd(), steps=2)
    training, backbone = _started(sd())
    for own in (whole, training):
        own.loss(batch(backbone, 5, PROMPTS))
    with torch.no_grad():
        for name, parameter in training.parameters.items():
            parameter.copy_(whole.parameters[name])
    training.restore({name: value.clone() for name, value in whole.state().items()})
    for own in (whole, training):
        own.after_step(3)
    one, other = whole.artifact().tensors, training.artifact().tensors
    assert all(torch.equal(one[name], other[name]) for name in one)
    whole.stop()
    training.stop()


def test_a_pause_gives_the_pipeline_back() -> None:
    pipe = sd()
    before = sample(pipe)
    training, _ = _trained(pipe)
    with training.paused():
        assert torch.equal(sample(pipe), before)
        load(pipe, training.artifact())
        assert torch.equal(sample(pipe), before)
        unload(pipe)
    again = training.loss(batch(backbone_of(pipe), 0, PROMPTS))
    training.stop()
    other, _ = _trained(sd())
    torch.testing.assert_close(again, other.loss(batch(other._backbone, 0, PROMPTS)))
    other.stop()


def test_what_is_drawn_is_what_was_trained(tmp_path: Path) -> None:
    """With the gate of training, a loaded file predicts as the training did."""
    pipe = sd()
    training, _ = _trained(pipe)
    backbone, one = backbone_of(pipe), batch(backbone_of(pipe), 0, PROMPTS)
    with torch.no_grad():
        expected = training.loss(one)
    (path,) = training.artifact().save(tmp_path)
    training.stop()
    load(pipe, path, beta=0.75, temperature=0.1)
    encoded = backbone.encode([prompt.replace("{}", "<c>") for prompt in PROMPTS])
    with torch.no_grad():
        found = one.error(backbone.predict(one.noisy, one.timesteps, encoded, one.sizes))
    unload(pipe)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_concept_of_stable_diffusion_1_5_has_at_most_100_kilobytes(tmp_path: Path) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    layers = cross_projections(unet)
    assert len(layers) == 32
    values = {n: torch.ones(m.out_features) for n, m in layers.items() if n.endswith("to_v")}
    assert sum(map(len, values.values())) == 12_480
    tensors = {name: torch.ones(768) for name in ("i_star", "c_inv_i_star", "super_category")}
    about = dict.fromkeys(("token", "covariance", "super_category", "clip_skip"), "0" * 64)
    about["modelspec.title"] = "0" * 1000
    concept = Artifact(
        "perfusion", values | tensors | {"embedding.clip_l": torch.ones(1, 768)}, about
    )
    (path,) = concept.save(tmp_path)
    assert path.stat().st_size <= 100_000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"super_category": " "}, "super_category must be a word"),
        ({"temperature": 0.0}, "temperature must be a finite number above 0"),
        ({"ema": 1.0}, "ema must be a finite number from 0 to below 1"),
        ({"embedding_lr": 0.0}, "embedding_lr must be a finite number above 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Perfusion(**{"placeholder_token": "<c>", "super_category": "fox"} | settings)


def test_what_it_cannot_be_trained_on_is_refused() -> None:
    pipe = sd()
    with pytest.raises(ValueError, match="no cross-attention whose keys and values"):
        Perfusion("<c>", "fox").start(context(sd3()))
    with pytest.raises(ValueError, match=r"must hold \{\}, where the concept goes, found 'a fox'"):
        Perfusion("<c>", "fox", _covariance(pipe)).start(context(pipe, ["a {}", "a fox"]))
    with pytest.raises(ValueError, match="other text encoders"):
        Perfusion("<c>", "fox", _covariance(sdxl())).start(context(pipe))
    with pytest.raises(ValueError, match="must be a covariance"):
        Perfusion("<c>", "fox", "missing.safetensors").start(context(pipe))
    with pytest.raises(ValueError, match="at most 14 tokens up to the concept"):
        Perfusion("<c>", "fox", _covariance(pipe)).start(context(pipe, ["a b " * 8 + "{}"]))
    assert not any(m._forward_hooks for m in pipe.unet.modules())
