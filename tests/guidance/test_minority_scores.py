"""Minority scores under pipelines: the formula with a network's own predictions, and its cost."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from guidance import CFG, OfPictures, Step, guide, minority_score, minority_scores
from guidance.core.noise import generator_of
from tests import tiny
from tests.tiny_families import FAMILIES

TEXTS = ["red fox", "blue owl"]


def latents(images: int = 2) -> Tensor:
    return torch.randn(images, 4, 8, 8, generator=torch.Generator().manual_seed(4))


def call_of(prompts: list[str]) -> dict[str, Any]:
    return {"prompt": prompts, "height": 16, "width": 16, "guidance_scale": 1.0}


def test_score_of_a_network_is_the_formula(sd: Any) -> None:
    """At level 0.6 of 100 steps, time 601 of DDIM's leading spacing."""
    x0 = latents()
    found = minority_scores(sd, x0, call_of(TEXTS), level=0.6, draws=3, seed=5)
    signal = float(sd.scheduler.alphas_cumprod[601])
    alpha, sigma = math.sqrt(signal), math.sqrt(1 - signal)
    expected = torch.zeros(2)
    for image, text in enumerate(TEXTS):
        words, own = sd.encode_prompt(text, "cpu", 1, False)[0], generator_of(5, x0[image])
        for _ in range(3):
            noise = torch.randn(4, 8, 8, generator=own)
            x = alpha * x0[image] + sigma * noise
            with torch.no_grad():
                eps = sd.unet(x[None], 601, encoder_hidden_states=words).sample[0]
            # The squared error of x0 is the weighted error of the noise.
            expected[image] += (eps - noise).square().mean() * (sigma / alpha) ** 2 / 3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_cost_is_one_evaluation_for_each_draw(sd: Any) -> None:
    rows = tiny.Rows(sd)
    minority_scores(sd, latents(), call_of(TEXTS), draws=4)
    assert rows.seen == [2] * 4
    rows.remove()
    with guide(sd, CFG(4.0)):
        expected = tiny.sample(sd)
    assert torch.equal(tiny.sample(sd, 4.0), expected)


def test_picture_alone_in_a_batch_and_from_a_function(sd: Any) -> None:
    x0, seen = latents(), list[Step]()
    together = minority_scores(sd, x0, call_of(TEXTS))
    alone = minority_scores(sd, x0[1:], call_of(TEXTS[1:]))
    tiny.close(alone[0], together[1])

    def made(step: Step) -> Tensor:
        seen.append(step)
        return x0

    assert torch.equal(minority_scores(sd, made, call_of(TEXTS)), together)
    assert [step.index for step in seen] == [0]
    assert not torch.equal(minority_scores(sd, x0, call_of(TEXTS), seed=1), together)
    assert not torch.equal(minority_scores(sd, x0, call_of(["", ""])), together)
    high = minority_scores(sd, x0, call_of(TEXTS), level=0.95)
    assert (high > together).all()


def test_score_of_pictures_compares_what_the_decoder_makes(sd: Any) -> None:
    x0, seen = latents(), list[tuple[Tensor, Tensor]]()

    def light(a: Tensor, b: Tensor) -> Tensor:
        seen.append((a, b))
        return (a - b).mean((1, 2, 3)).abs()

    scores = minority_scores(sd, x0, call_of(TEXTS), draws=1, distance=OfPictures(sd, light))
    ((a, b),) = seen
    decoded = sd.vae.decode(x0 / sd.vae.config.scaling_factor, return_dict=False)[0].detach()
    torch.testing.assert_close(a, decoded.clamp(-1, 1), atol=1e-5, rtol=1e-5)
    assert a.shape == b.shape == (2, 3, 16, 16)
    assert b.abs().max() <= 1
    torch.testing.assert_close(scores, light(a, b))
    torch.testing.assert_close(
        OfPictures(sd)(x0, x0 + 1),
        minority_score(_pictures(sd, x0), _pictures(sd, x0 + 1)),
    )


def _pictures(sd: Any, x0: Tensor) -> Tensor:
    with torch.no_grad():
        return sd.vae.decode(x0 / sd.vae.config.scaling_factor)[0].clamp(-1, 1)


class Heard:
    """Stands for a pipeline, and returns what it is called with."""

    def __init__(self, pipe: Any) -> None:
        self.guider = getattr(pipe, "guider", None)

    def __call__(self, **call: Any) -> tuple[Any]:
        return (call,)


@pytest.mark.filterwarnings("ignore:In CPU autocast")  # Mochi asks for one that only a GPU has
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str) -> None:
    pipe = FAMILIES[name]()
    call: Any = FAMILIES[name].call(Heard(pipe), scale=3.0, batch=2, steps=4)

    def noise(step: Step) -> Tensor:
        like = step.evaluate("cond")
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(1))

    scores = minority_scores(pipe, noise, call, draws=2)
    assert scores.shape == (2,)
    assert scores.isfinite().all()
    assert (scores > 0).all()


def test_impossible_settings_raise(sd: Any) -> None:
    x0, call = latents(), call_of(TEXTS)
    with pytest.raises(ValueError, match="level must be a finite number from 0 to 1"):
        minority_scores(sd, x0, call, level=1.5)
    with pytest.raises(ValueError, match=r"draws must be whole, found 1\.5"):
        minority_scores(sd, x0, call, draws=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="draws must be a finite number from 1 up"):
        minority_scores(sd, x0, call, draws=0)
    with pytest.raises(TypeError, match="distance must be 'mse', 'lpips' or a function"):
        minority_scores(sd, x0, call, distance="psnr")
    for wrong in (x0[:1], x0[..., :4]):
        with pytest.raises(ValueError, match="the call must ask for the pictures that are scored"):
            minority_scores(sd, wrong, call)
