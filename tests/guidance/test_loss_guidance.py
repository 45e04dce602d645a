"""Loss guidance: quadratic losses of Gaussians in closed form, finite differences, pipelines."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guidance import CFG, COND, LossGuidance, Rule, Step, guide, linear
from guidance.core.prediction import PREDICTION_TYPES
from guidance.core.spec import parse_rule
from guidance.evaluators import Decoded
from guidance.loss_guidance import loss_guidance, unit
from tests import tiny
from tests.guidance.mixture import LEVELS
from tests.guidance.rules import Brightness, brightness
from tests.tiny import close
from tests.tiny_families import FAMILIES

MEAN, SPREAD, GOAL = 0.3, 0.5, 2.0


def towards(x0: Tensor, step: Step, prompts: Any) -> Tensor:
    """Half the squared distance to the goal."""
    return (x0 - GOAL).square().flatten(1).sum(1) / 2


def gaussian(kind: str = "epsilon", alpha: float = 0.6, sigma: float = 0.8) -> Step:
    """A step of the exact model of N(MEAN, SPREAD), differentiable in its input."""
    if kind == "flow_prediction":
        alpha = 1 - sigma
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)

    def denoise(x: Tensor) -> Tensor:
        eps = sigma * (x - alpha * MEAN) / (alpha**2 * SPREAD + sigma**2)
        return replace(step, x=x).from_eps(eps)

    step = Step(
        index=0,
        count=10,
        timestep=1.0,
        alpha=alpha,
        sigma=sigma,
        x=x,
        prediction_type=kind,
        evaluator=lambda branch: denoise(x),
        denoise=denoise,
        prompts=("a", "b", "c"),
    )
    return step


def test_pure_function_per_sample() -> None:
    eps, slope = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    scale = torch.tensor([0.0, 1.0, 10.0], dtype=torch.float64)
    result = loss_guidance(eps, slope, scale, 0.6)
    for b in range(3):
        torch.testing.assert_close(result[b], eps[b] + 0.6 * scale[b] * slope[b])
    assert torch.equal(loss_guidance(eps, slope, 0.0, 0.6), eps)
    assert loss_guidance(eps.half(), slope, 2.0, 0.6).dtype == torch.float16


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_quadratic_loss_moves_x0_by_the_closed_form(kind: str, alpha: float, sigma: float) -> None:
    """``x0' = x0 - s (sigma / alpha)^2 (x0 - goal)`` where the noise is held fixed."""
    step = gaussian(kind, alpha, sigma)
    x0 = step.x0(step.evaluate(COND))
    guided = step.x0(LossGuidance(0.5, towards).predict(step))
    ratio = (step.sigma / step.alpha) ** 2
    torch.testing.assert_close(guided, x0 - 0.5 * ratio * (x0 - GOAL))


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_exact_gradient_goes_through_the_denoiser(kind: str, alpha: float, sigma: float) -> None:
    """The posterior mean moves by ``d x0 / d x = alpha v / (alpha^2 v + sigma^2)`` times that."""
    step = gaussian(kind, alpha, sigma)
    x0 = step.x0(step.evaluate(COND))
    guided = step.x0(LossGuidance(0.5, towards, exact=True).predict(step))
    a, s = step.alpha, step.sigma
    slope = a * SPREAD / (a**2 * SPREAD + s**2) * (x0 - GOAL)
    torch.testing.assert_close(guided, x0 - 0.5 * s**2 / a * slope)


def test_likelihood_of_a_measurement_is_the_posterior_score() -> None:
    """With the exact posterior variance in the loss, scale 1 is Bayes' rule of y = x0 + noise."""
    step, noise = gaussian(), 0.4
    a, s = step.alpha, step.sigma
    left = SPREAD * s**2 / (a**2 * SPREAD + s**2)  # variance of x0 given x

    def surprise(x0: Tensor, step: Step, prompts: Any) -> Tensor:
        return (GOAL - x0).square().flatten(1).sum(1) / 2 / (left + noise)

    guided = LossGuidance(1.0, surprise, exact=True).predict(step)
    # x0 given y is normal again, and with it the score of x given y.
    spread = 1 / (1 / SPREAD + 1 / noise)
    mean = spread * (MEAN / SPREAD + GOAL / noise)
    expected = -(step.x - a * mean) / (a**2 * spread + s**2)
    torch.testing.assert_close(step.score(guided), expected)


@pytest.mark.parametrize("exact", [False, True])
def test_gradient_is_that_of_finite_differences(exact: bool) -> None:
    def loss(x0: Tensor, step: Step, prompts: Any) -> Tensor:
        return (x0.flatten(1).sin() * torch.arange(100)).sum(1)

    step = gaussian("v_prediction")
    eps = step.eps(step.evaluate(COND))
    guided = LossGuidance(1.0, loss, exact=exact).predict(step)
    slope = ((step.eps(guided) - eps) / step.sigma).flatten(1)
    for b, d in ((0, 3), (2, 77)):
        moved = []
        for h in (1e-5, -1e-5):
            x = step.x.clone()
            x.view(3, -1)[b, d] += h
            x0 = (x - step.sigma * eps) / step.alpha
            if exact:
                x0 = replace(step, x=x).x0(step.denoise(x))
            moved.append(loss(x0, step, None)[b])
        expected = (moved[0] - moved[1]) / 2e-5
        torch.testing.assert_close(slope[b, d], expected, atol=1e-6, rtol=1e-6)


def test_unit_length() -> None:
    g = torch.randn(5, 4, 5, 5)
    g = g * torch.tensor([1e-30, 1e-3, 1.0, 1e30, 0.0]).view(-1, 1, 1, 1)
    result = unit(g)
    assert torch.equal(result[4], torch.zeros(4, 5, 5))
    rms = result.flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(rms, torch.tensor([1.0, 1, 1, 1, 0]))
    torch.testing.assert_close(result[1], g[1] / g[1].square().mean().sqrt())
    assert unit(g.half()).dtype == torch.float32


def test_normalised_update_has_the_size_of_the_scale() -> None:
    step = gaussian()

    def steep(x0: Tensor, step: Step, prompts: Any) -> Tensor:
        return 1e6 * towards(x0, step, prompts)

    eps = step.evaluate(COND)
    updates = [
        (LossGuidance(0.5, loss, True).predict(step) - eps).flatten(1) for loss in (towards, steep)
    ]
    torch.testing.assert_close(*updates)
    rms = updates[0].square().mean(1).sqrt()
    torch.testing.assert_close(rms, torch.full((3,), 0.5 * step.sigma, dtype=torch.float64))


def test_neutral_scale_and_pure_noise_ask_nobody() -> None:
    def never(x0: Tensor, step: Step, prompts: Any) -> Tensor:
        raise AssertionError

    step = gaussian()
    cond = step.evaluate(COND)
    assert torch.equal(LossGuidance(0.0, never).predict(step), cond)
    for alpha in (0.0, 0.0009):
        start = replace(step, alpha=alpha, sigma=1.0, prediction_type="flow_prediction")
        assert torch.equal(LossGuidance(9.0, never).predict(start), cond)
    with pytest.raises(AssertionError):
        LossGuidance(9.0, never).predict(replace(step, alpha=0.0011))


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_images_without_gradient_are_left_alone_and_counted(normalised: bool, exact: bool) -> None:
    """The root of nothing has no derivative."""

    def distance(x0: Tensor, step: Step, prompts: Any) -> Tensor:
        at = x0 - x0.detach() * torch.tensor([0.0, 1.0, 0.0]).view(-1, 1, 1, 1)
        return at.square().flatten(1).sum(1).sqrt()

    step = gaussian()
    cond = step.evaluate(COND)
    guided = LossGuidance(2.0, distance, normalised, exact).predict(step)
    assert (guided != cond).flatten(1).any(1).tolist() == [True, False, True]
    assert guided.isfinite().all()
    assert step.notes["LossGuidance: images without gradient"] == 1
    assert step.notes["LossGuidance: loss"][1] == 0


def test_scores_rise_where_losses_fall() -> None:
    step = gaussian()
    expected = LossGuidance(0.5, brightness).predict(step)
    assert torch.equal(LossGuidance(0.5, Brightness()).predict(step), expected)


def test_loss_is_told_step_and_prompts(sd: Any) -> None:
    seen: list[Any] = []

    def loss(x0: Tensor, step: Step, prompts: Any) -> Tensor:
        seen.append((x0.dtype, step.index, prompts))
        return brightness(x0, step, prompts)

    with guide(sd.to(dtype=torch.bfloat16), LossGuidance(0.1, loss, exact=True)):
        tiny.sample(sd, scale=1.0, batch=2, steps=2)
    assert seen == [(torch.float32, index, ("red fox", "blue owl")) for index in (0, 1)]


@pytest.mark.parametrize("exact", [False, True])
def test_lowers_the_loss_and_leaks_no_gradient(sd: Any, exact: bool) -> None:
    ends = [tiny.sample(sd, batch=2)]
    rule = CFG(5.0) + LossGuidance(0.3, brightness, normalised=True, exact=exact)
    for _ in range(2):
        with guide(sd, rule) as run:
            ends.append(tiny.sample(sd, batch=2))
    assert torch.equal(ends[1], ends[2])
    before, after = ((end - 1).square().flatten(1).sum(1) for end in ends[:2])
    assert (after < 0.9 * before).all()
    assert not ends[1].requires_grad
    assert all(parameter.grad is None for parameter in sd.unet.parameters())
    assert [record.evaluations for record in run.report.steps] == [2 + exact] * 4


@pytest.mark.parametrize("exact", [False, True])
def test_image_alone_and_in_a_batch_are_the_same(pipe: Any, exact: bool) -> None:
    rule = CFG(3.0) + LossGuidance(0.3, brightness, normalised=True, exact=exact)
    with guide(pipe, rule):
        together = tiny.sample(pipe, batch=2)
        close(tiny.sample(pipe)[0], together[0])


def test_channels_that_the_model_is_only_shown_stay(sd: Any) -> None:
    """An inpainting UNet has nine channels, of which four are the sample."""
    pipe = tiny.sd(in_channels=9)
    other = tiny.relative("StableDiffusionInpaintPipeline", pipe)
    image, mask = torch.rand(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
    call: dict[str, Any] = {"image": image, "mask_image": mask, "height": 16, "width": 16}
    plain = tiny.sample(other, 1.0, **call)
    ends = []
    for exact in (False, True):
        with guide(other, LossGuidance(0.2, brightness, normalised=True, exact=exact)):
            ends.append(tiny.sample(other, 1.0, **call))
    for end in ends:
        assert (end - 1).square().sum() < (plain - 1).square().sum()
    assert not torch.allclose(ends[0], ends[1], atol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("exact", [False, True])
def test_every_family(name: str, exact: bool) -> None:
    pipe = FAMILIES[name]()
    ends = []
    for scale in (0.0, 0.5):
        with guide(pipe, LossGuidance(scale, brightness, normalised=True, exact=exact)) as run:
            ends.append(FAMILIES[name].call(pipe, scale=3.0, batch=2, steps=3))
    assert ends[1].isfinite().all()
    assert (ends[1] - ends[0]).abs().max() > 1e-5
    calls = sum("LossGuidance: loss" in record.extras for record in run.report.steps)
    assert run.report.nfe == len(run.report.steps) + exact * calls
    networks = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    assert all(p.grad is None for network in networks for p in network.parameters())


def test_pictures_are_judged_decoded(sd: Any) -> None:
    def light(pictures: Tensor, prompts: Any) -> Tensor:
        return 100 * pictures.mean((1, 2, 3))

    score = Decoded(light, sd)
    rule = LossGuidance(1.0, score, normalised=True)
    with guide(sd, rule) as run:
        guided = tiny.sample(sd, 1.0, batch=2)
    assert guided.isfinite().all()
    losses = [record.extras["LossGuidance: loss"] for record in run.report.steps]
    assert all(a > b for a, b in zip(losses[0], losses[-1], strict=True))
    assert not any(math.isnan(loss) for each in losses for loss in each)
    assert all(parameter.grad is None for parameter in sd.vae.parameters())


def test_bad_settings_and_losses() -> None:
    step = gaussian()
    with pytest.raises(TypeError, match="loss must be a function of x0, the step and the prompts"):
        LossGuidance(1.0, "loss")
    with pytest.raises(ValueError, match="scale must be a finite number from 0 up"):
        LossGuidance(-1.0, towards)
    for setting in ("normalised", "exact"):
        with pytest.raises(TypeError, match=f"{setting} must be True or False, found 1"):
            LossGuidance(1.0, towards, **{setting: 1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one number for each of the 3 images, found shape \(\)"):
        LossGuidance(1.0, lambda x0, step, prompts: x0.sum()).predict(step)
    with pytest.raises(ValueError, match="must be differentiable, found a result that does not"):
        LossGuidance(1.0, lambda x0, step, prompts: x0.round().detach().sum((1, 2, 3))).predict(
            step
        )
    bare = Step(
        index=0,
        count=1,
        timestep=1.0,
        alpha=0.6,
        sigma=0.8,
        x=step.x,
        prediction_type="epsilon",
        evaluator=step.evaluator,
    )
    with pytest.raises(ValueError, match="no denoiser to differentiate"):
        LossGuidance(1.0, towards, exact=True).predict(bare)


def test_repr_json_and_text_rebuild_it() -> None:
    rule = LossGuidance(linear(0, 3), Brightness(), True, True).between(0.1, 0.9)
    names = {cls.__name__: cls for cls in (LossGuidance, Brightness, linear)}
    assert eval(repr(rule), names) == rule
    assert Rule.from_config(json.loads(json.dumps(rule.to_config()))) == rule
    assert parse_rule(repr(rule)) == rule
    assert repr(LossGuidance(1.0, towards)) == "LossGuidance(scale=1.0, loss=<towards>)"
    with pytest.raises(ValueError, match="LossGuidance: loss has no JSON form"):
        LossGuidance(1.0, towards).to_config()
