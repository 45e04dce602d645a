"""Records are what a slow loop of one's own sees, and are made once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from apps.evaluate.pictures.processes import Processes
from apps.train import records
from apps.train.data import Data, read_data
from apps.train.records import Plan, Records, origin_of, record
from tests import tiny
from tests.tiny_families import FAMILIES

PLAN = Plan(steps=5, keep=2, scales=(0.0, 6.0), batch_size=2, seed=3)


def recorded(pipe: Any, data: Data, folder: Path, plan: Plan = PLAN) -> list[Path]:
    return record(pipe, data, plan, Processes("cpu"), folder, origin_of(pipe))


class Slow:
    """The first batch, step by step: the random numbers in the order in which they are drawn."""

    def __init__(self, pipe: Any, data: Data) -> None:
        self.pipe = pipe
        self.found: list[dict[str, Tensor]] = []
        self.texts = list(data.texts[:2])
        self.paths = [data.pictures.path / name for name in data.pictures.names[:2]]
        self.own = [torch.Generator().manual_seed(3 * 1_000_003 + 2 * row + 1) for row in (0, 1)]
        self.generators = [torch.Generator().manual_seed(3 * 1_000_003 + 2 * r) for r in (0, 1)]
        self.w = 6 * torch.stack([torch.rand((), generator=g) for g in self.own])
        self.steps = 3 + int(torch.randint(3, (), generator=self.own[0]))
        pipe.scheduler.set_timesteps(self.steps)
        self.x = torch.stack([self.noise(g) for g in self.generators])
        self.kept = torch.randperm(self.steps, generator=self.own[0])[:2].tolist()
        self.z = self.encoded()

    def noise(self, generator: torch.Generator) -> Tensor:
        channels = 4 if hasattr(self.pipe, "vae") else 3
        return torch.randn(1, channels, 8, 8, generator=generator)[0]

    def encoded(self) -> Tensor:
        size = (16, 16) if hasattr(self.pipe, "vae") else (8, 8)
        opened = [Image.open(path).convert("RGB").resize(size, 3) for path in self.paths]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in opened]))
        pixels = pixels.permute(0, 3, 1, 2) / 127.5 - 1
        if not hasattr(self.pipe, "vae"):
            return pixels
        with torch.no_grad():
            posterior = self.pipe.vae.encode(pixels).latent_dist
        eps = torch.stack([self.noise(g) for g in self.own])
        return (posterior.mean + posterior.std * eps) * self.pipe.vae.config.scaling_factor

    def see(self, index: int, **x0: Tensor) -> None:
        if index in self.kept:
            self.found.append(x0)

    def real(self, alpha: float, sigma: float) -> Tensor:
        return alpha * self.z + sigma * torch.stack([self.noise(g) for g in self.own])

    def check(self, file: Path, final: Tensor) -> None:
        tensors = load_file(file)
        for name in self.found[0]:
            expected = torch.cat([each[name] for each in self.found])
            error = (tensors[name].float() - expected).abs().max() / expected.abs().max()
            assert error < 2e-3, name
        assert torch.equal(tensors["row"], torch.tensor([0, 1] * len(self.found)))
        assert (tensors["final"].float() - final).abs().max() < 2e-3 * final.abs().max()


@torch.no_grad()
def test_noise_prediction(pictures: Path, tmp_path: Path) -> None:
    pipe, data = tiny.sd(), read_data(pictures, 3)
    slow = Slow(pipe, data)
    cond, uncond = pipe.encode_prompt(slow.texts, "cpu", 1, True)
    w = slow.w.view(2, 1, 1, 1)
    for index, t in enumerate(pipe.scheduler.timesteps):
        signal = pipe.scheduler.alphas_cumprod[t]
        a, s = float(signal.sqrt()), float((1 - signal).sqrt())
        c, u = (pipe.unet(slow.x, t, text).sample for text in (cond, uncond))
        if index in slow.kept:
            x = slow.real(a, s)
            real = (x - s * pipe.unet(x, t, cond).sample) / a
            level = torch.full((2,), s / a).log()
            slow.see(
                index,
                real=real,
                cond=(slow.x - s * c) / a,
                uncond=(slow.x - s * u) / a,
                level=level,
            )
        final = (slow.x - s * (u + w * (c - u))) / a
        slow.x = pipe.scheduler.step(u + w * (c - u), t, slow.x).prev_sample
    files = recorded(pipe, data, tmp_path)
    assert len(files) == 2
    slow.check(files[0], final)
    torch.testing.assert_close(load_file(files[0])["scale"], slow.w.repeat(2))


@torch.no_grad()
def test_flow(pictures: Path, tmp_path: Path) -> None:
    pipe, data = tiny.sd3(), read_data(pictures, 2)
    slow = Slow(pipe, data)
    texts = pipe.encode_prompt(slow.texts, slow.texts, slow.texts, do_classifier_free_guidance=True)
    w = slow.w.view(2, 1, 1, 1)
    for index, t in enumerate(pipe.scheduler.timesteps):
        s = float(pipe.scheduler.sigmas[index])

        def velocity(x: Tensor, which: int, t: Tensor = t) -> Tensor:
            return pipe.transformer(
                hidden_states=x,
                timestep=t.expand(2),
                encoder_hidden_states=texts[which],
                pooled_projections=texts[2 + which],
            ).sample

        c, u = velocity(slow.x, 0), velocity(slow.x, 1)
        if index in slow.kept:
            x = slow.real(1 - s, s)
            real = x - s * velocity(x, 0)
            slow.see(index, real=real, cond=slow.x - s * c, uncond=slow.x - s * u)
        final = slow.x - s * (u + w * (c - u))
        slow.x = pipe.scheduler.step(u + w * (c - u), t, slow.x).prev_sample
    slow.check(recorded(pipe, data, tmp_path)[0], final)
    torch.testing.assert_close(slow.x, final)


@torch.no_grad()
def test_pixels_without_prompts(pictures: Path, tmp_path: Path) -> None:
    pipe, data = FAMILIES["ddpm"].build(), read_data(pictures, 2)
    slow = Slow(pipe, data)
    for index, t in enumerate(pipe.scheduler.timesteps):
        signal = pipe.scheduler.alphas_cumprod[t]
        a, s = float(signal.sqrt()), float((1 - signal).sqrt())
        eps = pipe.unet(slow.x, t).sample
        if index in slow.kept:
            x = slow.real(a, s)
            slow.see(index, real=(x - s * pipe.unet(x, t).sample) / a, cond=(slow.x - s * eps) / a)
        final = (slow.x - s * eps) / a
        slow.x = pipe.scheduler.step(eps, t, slow.x, generator=slow.generators).prev_sample
    (file,) = recorded(pipe, data, tmp_path)
    slow.check(file, final)
    seen = Records([file])
    assert not seen.guided
    everything = torch.arange(len(seen))
    five = torch.full((len(seen),), 5.0)
    assert torch.equal(seen.generated(everything, five), load_file(file)["cond"].float())


def test_are_made_once(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, data = tiny.sd(), read_data(pictures, 5)
    whole = recorded(pipe, data, tmp_path / "whole")
    expected = [load_file(path) for path in whole]

    calls: list[int] = []
    plain = records._recorded

    def interrupted(pipe: Any, data: Data, prompts: Any, rows: range, *others: Any) -> Any:
        calls.append(len(rows))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(pipe, data, prompts, rows, *others)

    monkeypatch.setattr(records, "_recorded", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recorded(pipe, data, tmp_path / "two")
    files = recorded(pipe, data, tmp_path / "two")
    assert calls == [2, 2, 2, 1]
    assert recorded(pipe, data, tmp_path / "two") == files
    fewer = recorded(pipe, read_data(pictures, 4), tmp_path / "two")
    assert (len(calls), fewer) == (4, files[:2])
    for path, tensors in zip(files, expected, strict=True):
        found = load_file(path)
        assert all(torch.equal(found[name], value) for name, value in tensors.items())

    files[1].write_bytes(files[1].read_bytes()[:100])  # a disk that was full
    recorded(pipe, data, tmp_path / "two")
    assert len(calls) == 5
    recorded(pipe, data, tmp_path / "two", replace(PLAN, keep=1))
    assert len(calls) == 8
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(2)
    recorded(pipe, data, tmp_path / "two")
    assert len(calls) == 11


def test_scale_1_needs_no_unconditional_branch(pictures: Path, tmp_path: Path) -> None:
    pipe, data = tiny.sd(), read_data(pictures, 2)
    rows = tiny.Rows(pipe)
    (file,) = recorded(pipe, data, tmp_path, replace(PLAN, scales=(1.0, 1.0)))
    rows.remove()
    assert set(rows.seen) == {2}
    assert "uncond" not in load_file(file)


@pytest.mark.parametrize(("family", "says"), [("flux", "packed"), ("dit", "neither")])
def test_what_has_no_picture_of_channels_is_refused(
    family: str, says: str, pictures: Path, tmp_path: Path
) -> None:
    pipe = tiny.dit() if family == "dit" else FAMILIES[family].build()
    with pytest.raises(ValueError, match=says) as caught:
        recorded(pipe, read_data(pictures, 2), tmp_path, replace(PLAN, scales=(1.0, 1.0)))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
