"""Networks of trained evaluators: a slow reference, what they see, and their sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from guidance.evaluators import NetworkSettings, build
from guidance.evaluators.network import AlignmentNet
from tests.tiny import close

LEVEL = torch.tensor([-3.0, 0.2, 5.0])


def net_of(kind: str = "classifier", seed: int = 0, **settings: Any) -> Any:
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"channels": 4, "outputs": 5, "width": 6, "depth": 2}
    return build(kind, NetworkSettings(**shape | settings))


def reference(net: Any, x: Tensor, level: float, text: Tensor | None = None) -> Tensor:
    """One picture ``(C, H, W)`` through the layers of a state dict, position by position."""
    w = {name: value.double() for name, value in net.state_dict().items()}
    angles = [max(-8.0, min(8.0, level)) * k * math.pi / 16 for k in range(1, 9)]
    known = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)]).double()
    if text is not None:
        away = text.double() - text.double().mean()
        known = torch.cat([known, away / (away.square().mean() + 1e-5).sqrt()])
    condition = F.gelu(w["known.weight"] @ known + w["known.bias"])

    def normal(h: Tensor) -> Tensor:
        result = torch.empty_like(h)
        for i in range(h.shape[1]):
            for j in range(h.shape[2]):
                away = h[:, i, j] - h[:, i, j].mean()
                result[:, i, j] = away / (away.square().mean() + 1e-5).sqrt()
        return result

    def conv(h: Tensor, name: str, **how: Any) -> Tensor:
        return F.conv2d(h[None], w[f"{name}.weight"], w[f"{name}.bias"], **how)[0]

    h = conv(x.double(), "stem", padding=1)
    for number in range(len(net.halve)):
        odd = (0, h.shape[2] % 2, 0, h.shape[1] % 2)
        h = conv(F.pad(h, odd), f"halve.{number}", stride=2)
    for number in range(len(net.blocks)):
        block = f"blocks.{number}"
        film = w[f"{block}.film.weight"] @ condition + w[f"{block}.film.bias"]
        scale, shift = film[: len(h)], film[len(h) :]
        inner = normal(conv(h, f"{block}.near", padding=1, groups=len(h)))
        inner = inner * (1 + scale)[:, None, None] + shift[:, None, None]
        wide = torch.einsum("oc,cij->oij", w[f"{block}.wide.weight"], inner)
        wide = F.gelu(wide + w[f"{block}.wide.bias"][:, None, None])
        back = torch.einsum("oc,cij->oij", w[f"{block}.back.weight"], wide)
        h = h + back + w[f"{block}.back.bias"][:, None, None]
    h = normal(h)
    rows, columns = math.ceil(h.shape[1] / 2), math.ceil(h.shape[2] / 2)
    quarters = [
        h[:, :rows, :columns],
        h[:, :rows, -columns:],
        h[:, -rows:, :columns],
        h[:, -rows:, -columns:],
    ]
    pooled = torch.cat([quarter.mean((1, 2)) for quarter in quarters])
    return (w["head.weight"] @ pooled + w["head.bias"]).float()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"text": 7, "outputs": 1, "depth": 3},
        {"size": (20, 33), "width": 4},
        {"size": (5, 3), "channels": 3},
    ],
)
def test_a_slow_reference(settings: dict[str, Any]) -> None:
    net = net_of("reward" if settings.get("text") else "classifier", **settings)
    size = settings.get("size", (8, 8))
    x = torch.randn(3, settings.get("channels", 4), *size)
    text = 9 * torch.randn(3, 7) + 4 if settings.get("text") else None
    with torch.no_grad():
        found = net(x, LEVEL, text)
    for b in range(3):
        row = None if text is None else text[b]
        torch.testing.assert_close(
            found[b], reference(net, x[b], float(LEVEL[b]), row), rtol=1e-4, atol=1e-5
        )


def test_alignment_is_the_scaled_cosine_of_two_towers() -> None:
    net = net_of("alignment", text=7)
    x, text = torch.randn(3, 4, 8, 8), torch.randn(3, 7)
    net.requires_grad_(False)
    with torch.no_grad():
        net.log_scale.fill_(1.5)
        found = net.agreement(x, LEVEL, text)
        pictures = net(x, LEVEL)
    for b in range(3):
        picture = reference(net.picture, x[b], float(LEVEL[b]))
        away = text[b] - text[b].mean()
        words = net.text.weight @ (away / (away.square().mean() + 1e-5).sqrt()) + net.text.bias
        cosine = picture @ words / picture.norm() / words.norm()
        assert float(found[b, 0]) == pytest.approx(math.exp(1.5) * float(cosine), abs=1e-4)
        torch.testing.assert_close(pictures[b], picture / picture.norm(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        net.log_scale.fill_(9.0)
    assert float(net.scale) == 100
    assert isinstance(net, AlignmentNet)


def test_left_and_right_differ_and_so_do_levels_and_texts() -> None:
    net = net_of("reward", text=7, outputs=1)
    x, text = torch.zeros(1, 4, 8, 8), torch.randn(1, 7)
    x[..., :3] = 2.0
    with torch.no_grad():
        base = net(x, LEVEL[:1], text)
        for other in (
            net(x.flip(3), LEVEL[:1], text),
            net(x.transpose(2, 3), LEVEL[:1], text),
            net(x, LEVEL[1:2], text),
            net(x, LEVEL[:1], text.flip(1)),
        ):
            assert (other - base).abs().max() > 1e-4


def test_levels_beyond_the_bounds_are_the_bounds() -> None:
    net, x = net_of(), torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        close(net(x, torch.tensor([torch.inf, -torch.inf])), net(x, torch.tensor([8.0, -8.0])))


def test_pictures_do_not_see_each_other_and_gradients_flow() -> None:
    net = net_of(size=(40, 40))
    x = torch.randn(3, 4, 40, 40, requires_grad=True)
    found = net(x, LEVEL)
    close(net(x[1:2], LEVEL[1:2])[0], found[1])
    (slope,) = torch.autograd.grad(found[1].sum(), x)
    assert slope[1].abs().min() > 0
    assert slope[0].abs().max() == slope[2].abs().max() == 0


@pytest.mark.parametrize(
    ("size", "halvings"),
    [(None, 0), ((8, 8), 0), ((16, 16), 0), ((17, 3), 1), ((64, 64), 2), ((90, 160), 4)],
)
def test_large_latents_are_halved(size: tuple[int, int] | None, halvings: int) -> None:
    settings = NetworkSettings(4, 2, size)
    assert settings.halvings == halvings
    assert len(net_of(size=size).halve) == halvings


def test_sizes_of_files_for_small_latents() -> None:
    """Half precision, with what safetensors adds for each tensor."""
    from safetensors.torch import save

    for kind, most, settings in (
        ("alignment", 85, {"outputs": 48, "text": 192, "width": 40}),
        ("reward", 35, {"outputs": 1, "text": 192, "width": 24}),
        ("classifier", 40, {"outputs": 4, "width": 32}),
        ("discriminator", 20, {"outputs": 1, "width": 22}),
        ("minority", 35, {"outputs": 20, "width": 28}),
    ):
        net = net_of(kind, size=(8, 8), **settings)
        weights = {name: value.half() for name, value in net.state_dict().items()}
        assert len(save(weights)) <= 1000 * most, kind


@pytest.mark.parametrize("size", [None, (64, 64), (128, 128)])
def test_defaults_stay_below_a_million(size: tuple[int, int] | None) -> None:
    """With the features of CLIP ViT-L."""
    net = build("alignment", NetworkSettings(16, 256, size, text=1536))
    assert sum(weight.numel() for weight in net.parameters()) <= 1_000_000


def test_settings_out_of_range() -> None:
    for bad, error in (
        ({"channels": 0}, r"channels must be a whole number from 1 to 256, found 0"),
        ({"outputs": 2.0}, r"outputs must be a whole number .* found 2.0"),
        ({"text": -1}, r"text must be a whole number from 0 .* found -1"),
        ({"width": True}, r"width must be a whole number .* found True"),
        ({"depth": 33}, r"depth must be a whole number from 1 to 32, found 33"),
        ({"size": (8, 0)}, r"width of size must be a whole number from 1 to 1024, found 0"),
    ):
        with pytest.raises(ValueError, match=error):
            NetworkSettings(**{"channels": 4, "outputs": 1, **bad})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"size must be \(height, width\), found 8"):
        NetworkSettings(4, 1, 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"at most 1000000 parameters, found \d{8}; lower width"):
        build("reward", NetworkSettings(4, 1, width=512, depth=32))
    with pytest.raises(ValueError, match="it reads text, found none"):
        net_of("reward", text=7, outputs=1)(torch.zeros(1, 4, 8, 8), LEVEL[:1])
