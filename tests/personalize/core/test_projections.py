"""Edits of projections against ``gated_rank_one``, and that they come off."""

from typing import Any

import pytest
import torch
from torch import Tensor

from personalize.core.projections import Edit, Editing, cross_projections, projected
from personalize.rank_one import gated_rank_one
from tests.tiny import dit, sd, sd3, sdxl

WIDTH = 32


def _rand(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _edit(unet: Any, present: Any = None, concepts: int = 2) -> tuple[Edit, Tensor]:
    root = _rand(WIDTH, WIDTH, seed=1)
    c_inv = root @ root.T / WIDTH + torch.eye(WIDTH)
    i = _rand(concepts, WIDTH, seed=2)
    outputs = {
        name: _rand(concepts, layer.out_features, seed=3)
        for name, layer in cross_projections(unet).items()
    }
    beta, tau = torch.tensor([0.6, 0.3])[:concepts], torch.tensor([0.15, 0.3])[:concepts]
    return Edit(i, i @ c_inv, outputs, beta, tau, present), c_inv


def _keys_and_values(unet: Any, x: Tensor) -> dict[str, Tensor]:
    return {name: layer(x) for name, layer in cross_projections(unet).items()}


def test_every_key_and_value_of_cross_attention_is_edited() -> None:
    unet = sd().unet
    edit, c_inv = _edit(unet)
    x = _rand(2, 7, WIDTH, seed=4)
    names = [
        f"{n}.{kind}"
        for n, _ in unet.named_modules()
        for kind in ("to_k", "to_v")
        if n.endswith("attn2")
    ]
    assert sorted(names) == sorted(edit.outputs)
    editing = Editing(unet, edit)
    for name, found in _keys_and_values(unet, x).items():
        weight = unet.get_submodule(name).weight
        expected = gated_rank_one(
            x, weight, edit.i_stars, edit.outputs[name], c_inv, edit.beta, edit.tau
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    editing.stop()


@pytest.mark.parametrize("make", [sd, sdxl])
def test_it_comes_off_without_a_trace(make: Any) -> None:
    unet = make().unet
    x = _rand(2, 7, unet.config.cross_attention_dim, seed=4)
    before, keys = _keys_and_values(unet, x), list(unet.state_dict())
    edit, _ = _edit(sd().unet)
    wide = Edit(
        _rand(2, x.shape[-1], seed=2), _rand(2, x.shape[-1], seed=2), {}, edit.beta, edit.tau
    )
    outputs = {
        n: _rand(2, layer.out_features, seed=3) for n, layer in cross_projections(unet).items()
    }
    editing = Editing(unet, Edit(wide.i_stars, wide.weighted, outputs, wide.beta, wide.tau))
    assert list(unet.state_dict()) == keys
    changed = _keys_and_values(unet, x)
    editing.stop()
    after = _keys_and_values(unet, x)
    for name in before:
        assert not torch.equal(changed[name], before[name])
        assert torch.equal(after[name], before[name])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())


def test_rows_without_a_concept_keep_their_bits() -> None:
    unet = sd().unet
    acting = torch.tensor([[False, False], [True, False], [True, True]])
    edit, c_inv = _edit(unet, lambda x: acting)
    x = _rand(3, 7, WIDTH, seed=4)
    before = _keys_and_values(unet, x)
    editing = Editing(unet, edit)
    found = _keys_and_values(unet, x)
    editing.stop()
    for name, layer in cross_projections(unet).items():
        assert torch.equal(found[name][0], before[name][0])
        for row, chosen in ((1, [0]), (2, [0, 1])):
            expected = gated_rank_one(
                x[row],
                layer.weight,
                edit.i_stars[chosen],
                edit.outputs[name][chosen],
                c_inv,
                edit.beta[chosen],
                edit.tau[chosen],
            )
            torch.testing.assert_close(found[name][row], expected, rtol=1e-4, atol=1e-5)


def test_half_precision_keeps_its_dtype() -> None:
    unet = sd().unet.to(torch.bfloat16)
    edit, _ = _edit(unet)
    editing = Editing(unet, edit)
    found = _keys_and_values(unet, _rand(1, 7, WIDTH, seed=4).bfloat16())
    editing.stop()
    assert {value.dtype for value in found.values()} == {torch.bfloat16}


def test_gradients_reach_outputs_and_encodings() -> None:
    unet = sd().unet.requires_grad_(False)
    edit, _ = _edit(unet)
    outputs = {name: value.requires_grad_() for name, value in edit.outputs.items()}
    x = _rand(1, 7, WIDTH, seed=4).requires_grad_()
    editing = Editing(unet, edit)
    sum(value.sum() for value in _keys_and_values(unet, x).values()).backward()  # type: ignore[union-attr]
    gates = editing.gates(x).detach().sum((0, 1))
    editing.stop()
    assert x.grad is not None and bool(x.grad.any())
    for value in outputs.values():
        assert value.grad is not None
        torch.testing.assert_close(value.grad, gates[:, None].expand_as(value))


def test_projected_is_the_weight_times_the_encoding() -> None:
    unet, e = sd().unet, _rand(WIDTH, seed=5)
    for name, output in projected(unet, e).items():
        torch.testing.assert_close(output, unet.get_submodule(name).weight.detach() @ e)


@pytest.mark.parametrize(("make", "part"), [(dit, "transformer"), (sd3, "transformer")])
def test_models_without_cross_attention_are_refused(make: Any, part: str) -> None:
    with pytest.raises(ValueError, match="no cross-attention whose keys and values"):
        cross_projections(getattr(make(), part))


def test_fused_projections_are_refused() -> None:
    unet = sd().unet
    unet.fuse_qkv_projections()
    with pytest.raises(ValueError, match=r"fused projections.*unfuse_qkv_projections"):
        cross_projections(unet)
