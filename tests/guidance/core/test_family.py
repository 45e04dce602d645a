"""Row layouts: what is trimmed, what is left alone, and layouts made known by the user."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from guidance import CFG, COND, UNCOND, Family, guide, register_family
from guidance.core.arguments import Arguments
from guidance.core.family import MODEL_TIME, per_mille, reversed_per_mille
from tests import tiny
from tests.guidance.rules import spy
from tests.tiny import close


def test_learned_variances_are_left_alone(dit: Any) -> None:
    net = dit.transformer
    dit.scheduler.set_timesteps(3)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([500, 500])
    call: dict[str, Any] = {
        "timestep": t,
        "class_labels": torch.tensor([3, 1000]),
        "return_dict": False,
    }
    with torch.no_grad():
        plain = net(torch.cat([x, x]), **call)[0]
        with guide(net, CFG(4.0), scheduler=dit.scheduler):
            guided = net(torch.cat([x, x]), **call)[0]
        with guide(net, CFG(1.0), scheduler=dit.scheduler):
            trimmed = net(torch.cat([x, x]), **call)[0]
    assert torch.equal(guided[:, 4:], plain[:, 4:])
    cond, uncond = plain[:, :4].chunk(2)
    assert torch.equal(guided[:1, :4], uncond + 4.0 * (cond - uncond))
    close(trimmed, plain[:1].repeat(2, 1, 1, 1))


def test_control_residuals_and_inpainting_channels_are_trimmed() -> None:
    pipe = tiny.sd(in_channels=9)
    unet = pipe.unet
    pipe.scheduler.set_timesteps(3)
    rows = torch.randn(1, 9, 8, 8).repeat(2, 1, 1, 1)
    text, mid = torch.randn(2, 5, tiny.WIDTH), torch.randn(2, 32, 4, 4)
    down = tuple(torch.randn(2, *s) for s in ((16, 8, 8), (16, 8, 8), (16, 4, 4), (32, 4, 4)))
    call: dict[str, Any] = {
        "encoder_hidden_states": text,
        "down_block_additional_residuals": down,
        "mid_block_additional_residual": mid,
    }
    rule = spy()
    with torch.no_grad():
        plain = unet(rows, 500, **call).sample
        with guide(unet, rule, scheduler=pipe.scheduler):
            guided = unet(rows, 500, **call).sample
    close(guided, torch.cat([plain[1:], plain[1:]]))
    step = rule.steps[0]
    noise = (rows[1:, :4] - step.alpha * step.x0(plain[1:])) / step.sigma
    torch.testing.assert_close(noise, plain[1:])


def test_rows_of_each_kind_are_taken_and_joined_alike() -> None:
    family = Family("M", rows=("hidden_states", "layers[:]", "shapes[]", "extra.mask", "levels"))
    values: dict[str, Any] = {
        "hidden_states": torch.randn(2, 4, 8),
        "layers": torch.randn(3, 2, 5),
        "shapes": ["a", "b"],
        "extra": {"mask": torch.randn(2, 6), "kept": 1},
        "levels": [torch.randn(2, 5), torch.randn(2, 7)],
        "ids": torch.arange(3),
    }
    whole = Arguments(family, values, ())
    first, last = whole.take(slice(0, 1)), whole.take([1])
    assert first.values["layers"].shape == (3, 1, 5)
    assert last.values["shapes"] == ["b"]
    assert last.values["extra"]["kept"] == 1
    joined = first.join([last])
    assert joined is not None
    for name in ("hidden_states", "layers", "ids"):
        assert torch.equal(joined.values[name], values[name])
    assert joined.values["shapes"] == ["a", "b"]
    assert torch.equal(joined.values["extra"]["mask"], values["extra"]["mask"])
    assert all(map(torch.equal, joined.values["levels"], values["levels"]))


def test_time_is_that_of_the_noisiest_frame() -> None:
    times = torch.tensor([[0.0, 0.3, 0.3]])
    upwards = Family("M", time=per_mille)
    assert Arguments(upwards, {"timestep": times}, ()).time == pytest.approx(300)
    downwards = Family("M", time=reversed_per_mille)
    assert Arguments(downwards, {"timestep": 1 - times}, ()).time == pytest.approx(300)


@pytest.mark.parametrize("convention", MODEL_TIME)
def test_time_can_be_replaced(convention: Any) -> None:
    family = Family("M", time=convention)
    old, new = (MODEL_TIME[convention](each) for each in (1.2, 0.4))
    for time in (old, torch.tensor(old).double(), torch.tensor([old, old]).double(), [old]):
        moved = Arguments(family, {"timestep": time}, ()).with_time(0.4)
        found = moved.values["timestep"]
        assert type(found) is type(time)
        assert moved.time == pytest.approx(0.4)
        if isinstance(time, torch.Tensor):
            torch.testing.assert_close(found, torch.full_like(time, new))


def test_time_keeps_its_type_and_frames_without_noise_theirs() -> None:
    whole = Arguments(Family("M"), {"timestep": torch.tensor(7)}, ()).with_time(3.6)
    assert torch.equal(whole.values["timestep"], torch.tensor(4))
    for convention, old in ((per_mille, 0.3), (reversed_per_mille, 0.7)):
        clean = MODEL_TIME[convention](0.0)
        times = torch.tensor([[clean, old, old]])
        moved = Arguments(Family("M", time=convention), {"timestep": times}, ()).with_time(100.0)
        new = MODEL_TIME[convention](100.0)
        torch.testing.assert_close(moved.values["timestep"], torch.tensor([[clean, new, new]]))
    odd = Family("M", time=lambda time: 2 * time)
    with pytest.raises(ValueError, match="a step at another noise level needs a time that is one"):
        Arguments(odd, {"timestep": 1.0}, ()).with_time(3.0)


def test_wrong_number_of_rows_is_named(sd: Any) -> None:
    sd.scheduler.set_timesteps(3)
    rows, text = torch.randn(1, 4, 8, 8).repeat(2, 1, 1, 1), torch.randn(3, 5, tiny.WIDTH)
    with (
        guide(sd.unet, CFG(1.0), scheduler=sd.scheduler),
        pytest.raises(ValueError, match="encoder_hidden_states must have 2 rows"),
    ):
        sd.unet(rows, 500, text)


@pytest.mark.parametrize("guess_mode", [True, False])
def test_controlnet(sd: Any, guess_mode: bool) -> None:
    net = diffusers.ControlNetModel.from_unet(sd.unet, conditioning_embedding_out_channels=(8, 16))
    for weight in net.controlnet_down_blocks.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    control = tiny.relative("StableDiffusionControlNetPipeline", sd, controlnet=net)
    call: dict[str, Any] = {"image": torch.rand(1, 3, 16, 16), "guess_mode": guess_mode}
    native = tiny.sample(control, scale=5.0, **call)
    with guide(control, CFG(5.0)):
        assert torch.equal(tiny.sample(control, scale=2.0, **call), native)
    with guide(control, CFG(5.0), batching="sequential"):
        close(tiny.sample(control, scale=2.0, **call), native)


class OtherUNet(torch.nn.Module):
    """A denoiser with its own argument names and row order, made known by register_family."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"in_channels": 4}

    def forward(self, noisy: torch.Tensor, time: float, label: torch.Tensor) -> Any:
        return (noisy * label.view(-1, 1, 1, 1),)


def test_registered_family_is_guided() -> None:
    register_family(
        Family("OtherUNet", "noisy", ("noisy", "label"), order=(COND, UNCOND), timestep="time")
    )
    scheduler = tiny.scheduler("DDIMScheduler")
    scheduler.set_timesteps(2)
    x = torch.ones(1, 4, 2, 2)
    with guide(net := OtherUNet(), CFG(3.0), scheduler=scheduler):
        result = net(torch.cat([x, x]), 500, torch.tensor([2.0, 1.0]))[0]
    assert torch.equal(result, torch.cat([4 * x, 4 * x]))
    with pytest.raises(ValueError, match="rows must hold 'noisy'"):
        register_family(Family("OtherUNet", "noisy", ("label",)))


def test_calls_that_differ_beside_their_rows_are_not_joined() -> None:
    family = Family("Toy", rows=("hidden_states", "encoder_hidden_states"))

    def call(ids: torch.Tensor, tokens: int = 3) -> Arguments:
        text = torch.randn(2, tokens, 4)
        values = {"hidden_states": torch.randn(2, 4), "encoder_hidden_states": text, "ids": ids}
        return Arguments(family, values, ())

    ids = torch.arange(3)
    joined = call(ids).join([call(ids.clone())])
    assert joined is not None
    assert joined.total == 4
    assert torch.equal(joined.values["ids"], ids)
    assert call(ids).join([call(ids + 1)]) is None
    assert call(ids).join([call(ids, tokens=5)]) is None
