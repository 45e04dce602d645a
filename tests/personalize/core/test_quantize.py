"""Int8 weights: how far they are from the weights, what they weigh, what stays as it was."""

import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from personalize.core.quantize import (
    Int8Conv2d,
    Int8Linear,
    put_back,
    quantize,
    quantize_weight,
    weight_bytes,
)
from tests.tiny import sd


def _rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 3, 3)])
def test_codes_are_within_half_a_scale(shape: tuple[int, ...]) -> None:
    weight = _rand(*shape)
    weight[1] = 0
    weight[2] *= 1e-20
    codes, scales = quantize_weight(weight)
    assert codes.dtype == torch.int8 and scales.shape == (shape[0], *[1] * (len(shape) - 1))
    error = (codes * scales - weight).abs()
    assert bool((error <= scales / 2 * (1 + 1e-5)).all())
    assert not codes[1].any() and int(codes[2].abs().max()) == 127


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (3, 5, 6)),
        (nn.Linear(6, 4, bias=False), (3, 6)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9, 9)),
        (nn.Conv2d(4, 6, 3, padding="same", dilation=2, bias=False), (2, 4, 9, 9)),
    ],
)
def test_a_layer_is_that_layer_with_rounded_weights(
    layer: nn.Linear | nn.Conv2d, shape: tuple[int, ...]
) -> None:
    model = nn.Sequential(layer)
    codes, scales = quantize_weight(layer.weight.detach())
    x = _rand(*shape)
    with torch.no_grad():
        if isinstance(layer, nn.Linear):
            exact = F.linear(x, codes * scales, layer.bias)
        else:
            exact = layer._conv_forward(x, codes * scales, layer.bias)
        quantize(model)
        found = model(x)
    assert type(model[0]) in (Int8Linear, Int8Conv2d)
    torch.testing.assert_close(found, exact, rtol=0, atol=0)


def test_a_unet_keeps_its_answer_and_a_quarter_of_its_bytes() -> None:
    unet = sd().unet
    x, text = _rand(2, 4, 8, 8), _rand(2, 5, unet.config.cross_attention_dim, seed=1)
    with torch.no_grad():
        before, plain = weight_bytes(unet), unet(x, 500, text).sample
        norms = {n: p.clone() for n, p in unet.named_parameters() if "norm" in n}
        layers = quantize(unet)
        after = unet(x, 500, text).sample
    assert not any(type(m) in (nn.Linear, nn.Conv2d) for m in unet.modules())
    assert 0 < float((after - plain).norm() / plain.norm()) < 0.05
    assert all(torch.equal(p, norms[n]) for n, p in unet.named_parameters() if n in norms)
    matrices = sum(m.codes.numel() for m in unet.modules() if hasattr(m, "codes"))
    scales = sum(m.scales.numel() for m in unet.modules() if hasattr(m, "scales"))
    assert weight_bytes(unet) == before - 3 * matrices + 4 * scales
    put_back(unet, layers)
    with torch.no_grad():
        assert weight_bytes(unet) == before and torch.equal(unet(x, 500, text).sample, plain)


def test_codes_survive_a_file_and_a_change_of_precision() -> None:
    model, other = (nn.Sequential(nn.Linear(8, 8), nn.Conv2d(8, 4, 1)) for _ in range(2))
    quantize(model)
    quantize(other)
    other.load_state_dict(model.state_dict())
    layer, copy = model[0], other[0]
    assert isinstance(layer, Int8Linear) and isinstance(copy, Int8Linear)
    assert torch.equal(copy.weight, layer.weight)
    model.bfloat16()
    assert layer.codes.dtype == torch.int8 and layer.weight.dtype == torch.bfloat16
    assert model[0](_rand(2, 8).bfloat16()).dtype == torch.bfloat16


def test_gradients_reach_the_input() -> None:
    layer = nn.Linear(6, 4)
    x = _rand(3, 6).requires_grad_()
    model = nn.Sequential(layer)
    quantize(model)
    model(x).sum().backward()
    codes, scales = quantize_weight(layer.weight.detach())
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (codes * scales).sum(0).expand(3, -1))


def test_shared_layers_stay_shared_and_other_classes_stay() -> None:
    class Special(nn.Linear):
        pass

    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": shared, "b": shared, "c": Special(4, 4), "e": nn.Embedding(4, 4)})
    quantize(model)
    assert model["a"] is model["b"] and type(model["a"]) is Int8Linear
    assert type(model["c"]) is Special and type(model["e"]) is nn.Embedding


def test_layers_that_are_not_kept_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    layers, there = [weakref.ref(layer) for layer in model], []

    def counting(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        there.append(sum(layer() is not None for layer in layers))
        return quantize_weight(weight)

    monkeypatch.setattr("personalize.core.quantize.quantize_weight", counting)
    assert quantize(model, keep=False) == {}
    assert there == [3, 2, 1] and layers[0]() is layers[1]() is layers[2]() is None


def test_what_stays_leaves_the_file_that_it_was_read_from() -> None:
    file = torch.arange(100.0)
    norm = nn.LayerNorm(4)
    norm.weight = norm.bias = nn.Parameter(file[:4])
    model = nn.Sequential(nn.Linear(4, 4), norm)
    quantize(model, keep=False)
    assert norm.weight is norm.bias and torch.equal(norm.weight, file[:4])
    assert norm.weight.untyped_storage().nbytes() == 4 * 4


def test_skipped_names_stay() -> None:
    model = nn.ModuleDict({"conv_in": nn.Conv2d(3, 4, 1), "body": nn.Sequential(nn.Linear(4, 4))})
    quantize(model, skip=("conv_*",))
    assert type(model["conv_in"]) is nn.Conv2d and type(model.get_submodule("body.0")) is Int8Linear


@pytest.mark.parametrize(
    ("model", "skip", "message"),
    [
        (nn.Sequential(nn.ReLU()), (), "Sequential has no Linear or Conv2d"),
        (nn.Sequential(nn.Linear(2, 2)), ("typo",), "'typo' matches no Linear or Conv2d"),
        (
            nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 2, 1, padding_mode="circular")),
            (),
            "padding_mode='circular'",
        ),
    ],
)
def test_what_cannot_be_quantized_is_refused_whole(
    model: nn.Module, skip: tuple[str, ...], message: str
) -> None:
    before = list(model.children())
    with pytest.raises(ValueError, match=message):
        quantize(model, skip)
    assert list(model.children()) == before


def test_weights_that_are_not_finite_are_refused() -> None:
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, torch.nan)
    with pytest.raises(ValueError, match="must be finite"):
        quantize(nn.Sequential(layer))
