"""Self-guided minority sampling: closed forms of Gaussians, a slow reference, pipelines."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guidance import (
    CFG,
    COND,
    AdaptiveGuidance,
    LossGuidance,
    Rule,
    SelfGuidedMinority,
    Step,
    guide,
    linear,
)
from guidance.core.noise import generator_of
from guidance.core.prediction import PREDICTION_TYPES
from guidance.core.spec import parse_rule
from guidance.self_guided_minority import max_normalised, self_guided_minority
from tests import tiny
from tests.guidance.mixture import LEVELS
from tests.guidance.rules import Brightness
from tests.tiny import close
from tests.tiny_families import FAMILIES

MEAN, SPREAD = 0.5, 1.7
THERE = (0.3, math.sqrt(1 - 0.3**2))
"""Alpha and sigma of the level where predictions are noised again."""
AFTER = (0.8, 0.6)


def posterior_mean(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """x0 of the exact model of N(MEAN, SPREAD)."""
    shrink = alpha * SPREAD / (alpha**2 * SPREAD + sigma**2)
    return MEAN + shrink * (x - alpha * MEAN)


def gaussian(
    kind: str = "epsilon", alpha: float = 0.6, sigma: float = 0.8, images: int = 3
) -> Step:
    """A step of that model at any noise level, with its graph."""
    if kind == "flow_prediction":
        alpha = 1 - sigma

    def step_at(x: Tensor, a: float, s: float) -> Step:
        def denoise(x: Tensor) -> Tensor:
            return replace(step, x=x).from_x0(posterior_mean(x, a, s))

        def traced() -> tuple[Tensor, Tensor]:
            leaf = x.detach().clone().requires_grad_()
            return leaf, denoise(leaf)

        def moved(share: float) -> Step:
            assert share == 0.8
            there = (1 - THERE[1], THERE[1]) if kind == "flow_prediction" else THERE
            return step_at(torch.full_like(x, math.nan), *there)

        step = Step(
            index=4,
            count=10,
            timestep=1.0,
            alpha=a,
            sigma=s,
            x=x,
            prediction_type=kind,
            evaluator=lambda branch: denoise(x),
            denoise=denoise,
            traced=traced,
            at=moved,
            after=lambda: AFTER,
        )
        return step

    x = torch.randn(images, 4, 5, 5, generator=torch.Generator().manual_seed(3)).double()
    return step_at(x, alpha, sigma)


def test_pure_function_moves_the_ancestral_mean_by_variance_times_gradient() -> None:
    eps, slope, x = torch.randn(3, 3, 4, 5, 5, dtype=torch.float64)
    scale = torch.tensor([0.0, 1.0, 10.0], dtype=torch.float64)
    for level, after in (((0.6, 0.8), AFTER), ((0.1, 0.9), (0.3, 0.7)), (AFTER, (1.0, 0.0))):
        (a, s), (a2, s2) = level, after
        r, b = a / a2, s**2 - (a / a2) ** 2 * s2**2

        def mean(noise: Tensor, a: float = a, s: float = s, a2: float = a2, s2: float = s2) -> Any:
            r, b = a / a2, s**2 - (a / a2) ** 2 * s2**2
            return r * s2**2 / s**2 * x + a2 * b / s**2 * (x - s * noise) / a

        guided = self_guided_minority(eps, slope, scale, level, after)
        variance = b * s2**2 / s**2
        assert 0 <= variance < s**2
        assert r < 1
        expected = mean(eps) + variance * scale.view(3, 1, 1, 1) * slope
        torch.testing.assert_close(mean(guided), expected)
    assert torch.equal(self_guided_minority(eps, slope, 0.0, (0.6, 0.8), AFTER), eps)
    half = self_guided_minority(eps.half(), slope, 2.0, (0.6, 0.8), AFTER)
    assert half.dtype == torch.float16


def test_fine_steps_change_the_score_by_scale_times_gradient() -> None:
    eps, slope = torch.randn(2, 3, 4, dtype=torch.float64)
    near = (0.6001, math.sqrt(1 - 0.6001**2))
    guided = self_guided_minority(eps, slope, 2.0, (0.6, 0.8), near)
    torch.testing.assert_close(guided, eps - 0.8 * 2.0 * slope, atol=3e-3, rtol=0)


def test_largest_value_is_one_and_zero_stays_zero() -> None:
    slope = torch.randn(4, 3, 5) * torch.tensor([1e-30, 1.0, 1e30, 0.0]).view(4, 1, 1)
    result = max_normalised(slope)
    torch.testing.assert_close(result.abs().amax((1, 2)), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    torch.testing.assert_close(result[1], slope[1] / slope[1].abs().max())
    assert max_normalised(slope.half()).dtype == torch.float32


def slope_of(step: Step, rule: SelfGuidedMinority) -> Tensor:
    """The normalised gradient that a rule added."""
    share = step.alpha / AFTER[0] * AFTER[1] ** 2 / step.sigma
    guided = step.eps(rule.predict(step))
    return (step.eps(step.evaluate(COND)) - guided) / share / rule._scale_at(step)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_gradient_of_gaussian_data_is_the_closed_form(
    kind: str, alpha: float, sigma: float
) -> None:
    """``2 k_t (h - hh)``, ``h - hh = (1 - k_s a_s)(h - mu) - k_s s_s n``, up to its size."""
    step = gaussian(kind, alpha, sigma)
    rule = SelfGuidedMinority(2.0, every=1, seed=7)
    found = slope_of(step, rule)
    h = posterior_mean(step.x, step.alpha, step.sigma)
    there = step.at(0.8)
    shrink = there.alpha * SPREAD / (there.alpha**2 * SPREAD + there.sigma**2)
    noise = torch.stack(
        [torch.randn(4, 5, 5, generator=generator_of(7, x), dtype=torch.float64) for x in step.x]
    )
    apart = (1 - shrink * there.alpha) * (h - MEAN) - shrink * there.sigma * noise
    torch.testing.assert_close(found, max_normalised(apart), atol=1e-7, rtol=1e-6)
    squares = apart.square().flatten(1).mean(1)
    assert step.notes["SelfGuidedMinority: error"] == pytest.approx(squares.tolist())
    assert step.notes["SelfGuidedMinority: images without gradient"] == 0


def test_many_draws_pull_outwards_from_the_mean() -> None:
    """``E g = 2 k_t^2 (1 - k_s a_s)(x - a mu)``."""
    step = gaussian()
    found = slope_of(step, SelfGuidedMinority(1.0, every=1, draws=4000))
    outwards = max_normalised(step.x - step.alpha * MEAN)
    agreement = torch.cosine_similarity(found.flatten(1), outwards.flatten(1))
    assert (agreement > 0.999).all()


def test_norm_and_square_have_one_direction() -> None:
    step = gaussian()

    def norm(a: Tensor, b: Tensor) -> Tensor:
        return ((a - b).square().flatten(1).sum(1) + 1e-12).sqrt()

    square = SelfGuidedMinority(1.0, every=1).predict(step)
    again = replace(step, memory={})
    torch.testing.assert_close(
        SelfGuidedMinority(1.0, every=1, distance=norm).predict(again), square
    )


def test_calls_are_counted_from_the_end() -> None:
    """Multiples of n, of the noise levels counted from the cleanest; not the last, not noise."""
    step = gaussian()
    rule = SelfGuidedMinority(1.0, every=3)

    def acts(index: int, **changes: Any) -> bool:
        at = replace(step, index=index, memory={}, **changes)
        return not torch.equal(rule.predict(at), at.evaluate(COND))

    assert [acts(index) for index in range(10)] == [index % 3 == 0 for index in range(10)]
    assert not acts(9, after=lambda: (1.0, 0.0))
    assert not acts(0, alpha=0.0009)
    assert not rule.active(replace(step, index=1))


def test_scale_may_be_a_schedule() -> None:
    step = replace(gaussian(), index=5)
    rule = SelfGuidedMinority(linear(0, 4), every=2)
    assert torch.equal(
        rule.predict(step), SelfGuidedMinority(2.0, every=2).predict(replace(step, memory={}))
    )
    assert step.notes["SelfGuidedMinority: scale"] == 2.0
    start = replace(step, index=0, count=9, memory={})
    assert torch.equal(rule.predict(start), step.evaluate(COND))


def test_images_without_gradient_are_left_alone_and_counted() -> None:
    step = gaussian()

    def broken(a: Tensor, b: Tensor) -> Tensor:
        # The root of nothing has no derivative.
        apart = (a - b).square().flatten(1).sum(1)
        return (apart * torch.tensor([1.0, 0.0, 1.0])).sqrt()

    guided = SelfGuidedMinority(1.0, every=1, distance=broken).predict(step)
    assert (guided != step.evaluate(COND)).flatten(1).any(1).tolist() == [True, False, True]
    assert step.notes["SelfGuidedMinority: images without gradient"] == 1


# Pipelines


def slow_reference(pipe: Any, rule: SelfGuidedMinority, prompt: str, steps: int) -> Tensor:
    """The algorithm in a loop of its own: DDIM, unguided prompt, written from the equations."""
    scheduler, unet = pipe.scheduler, pipe.unet
    scheduler.set_timesteps(steps)
    text = pipe.encode_prompt(prompt, "cpu", 1, False)[0]
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    own = generator_of(rule.seed, x[0])
    times = scheduler.timesteps.tolist()

    def level(t: int) -> tuple[float, float]:
        signal = float(scheduler.alphas_cumprod[t])
        return math.sqrt(signal), math.sqrt(1 - signal)

    def x0(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        eps = unet(x, torch.tensor(t), encoder_hidden_states=text).sample
        a, s = level(t)
        return (x - s * eps) / a, eps

    again = times[steps - 1 - int(rule.level * steps)]
    for number, t in enumerate(times):
        a, s = level(t)
        leaf = x.clone().requires_grad_()
        h, eps = x0(leaf, t)
        if (steps - 1 - number) % rule.every == 0 and number < steps - 1:
            a_s, s_s = level(again)
            noise = torch.randn(4, 8, 8, generator=own)
            hh = x0(a_s * h + s_s * noise, again)[0].detach()
            slope = torch.autograd.grad((h - hh).norm(), leaf)[0]
            a2, s2 = level(times[number + 1])
            move = rule.scale * a / a2 * s2**2 / s**2 * slope / slope.abs().max()  # type: ignore[operator]
            eps = eps - s * move
        x = scheduler.step(eps.detach(), t, x).prev_sample
    return x


@pytest.mark.parametrize(
    "rule", [SelfGuidedMinority(3.0, every=2), SelfGuidedMinority(1.0, 0.3, 1)]
)
def test_slow_reference(sd: Any, rule: SelfGuidedMinority) -> None:
    with guide(sd, rule) as run:
        guided = tiny.sample(sd, 1.0, steps=6)
    expected = slow_reference(sd, rule, tiny.PROMPT, 6)
    torch.testing.assert_close(guided, expected, atol=1e-4, rtol=1e-4)
    plain = tiny.sample(sd, 1.0, steps=6)
    assert (guided - plain).abs().max() > 0.05
    fired = [rule.every == 1 or index % 2 for index in range(5)] + [False]
    assert [record.evaluations for record in run.report.steps] == [1 + bool(f) for f in fired]


def test_evaluations_with_classifier_free_guidance_and_several_draws(sd: Any) -> None:
    with guide(sd, CFG(4.0) + SelfGuidedMinority(2.0, every=2, draws=3)) as run:
        tiny.sample(sd, batch=2, steps=5)
    assert [record.evaluations for record in run.report.steps] == [5, 2, 5, 2, 2]
    rows = tiny.Rows(sd)
    with guide(sd, SelfGuidedMinority(2.0, every=2)):
        tiny.sample(sd, 1.0, batch=2, steps=3)
    assert rows.seen == [2, 2, 2, 2]
    rows.remove()


def test_two_rules_with_gradients_each_have_their_own(sd: Any) -> None:
    """The second graph is a new evaluation."""
    rule = SelfGuidedMinority(2.0, every=1) + LossGuidance(0.3, Brightness(), True, exact=True)
    with guide(sd, rule) as run:
        guided = tiny.sample(sd, 1.0, steps=3)
    assert [record.evaluations for record in run.report.steps] == [3, 3, 2]
    other = SelfGuidedMinority(2.0, every=1) + SelfGuidedMinority(2.0, every=1, seed=1)
    with guide(sd, other) as run:
        twice = tiny.sample(sd, 1.0, steps=3)
    assert [record.evaluations for record in run.report.steps] == [4, 4, 1]
    assert guided.isfinite().all()
    assert twice.isfinite().all()


def test_inside_adaptive_guidance(sd: Any) -> None:
    rule = CFG(4.0) + SelfGuidedMinority(2.0, every=2)
    with guide(sd, rule) as run:
        expected = tiny.sample(sd, batch=2)
    with guide(sd, AdaptiveGuidance(rule, 1.0)) as adaptive:
        close(tiny.sample(sd, batch=2), expected)
    assert adaptive.report.nfe == run.report.nfe


def test_neutral_scale_and_rest_keep_the_trajectory_bit_for_bit(pipe: Any) -> None:
    with guide(pipe, CFG(3.0)):
        plain = tiny.sample(pipe, batch=2)
    for rule in (SelfGuidedMinority(0.0), SelfGuidedMinority(5.0, every=1).between(0.0, 0.0)):
        with guide(pipe, CFG(3.0) + rule) as run:
            assert torch.equal(tiny.sample(pipe, batch=2), plain)
        assert run.report.nfe == 8


def test_image_alone_and_in_a_batch_are_the_same(pipe: Any) -> None:
    rule = CFG(3.0) + SelfGuidedMinority(3.0, every=2)
    with guide(pipe, rule):
        together = tiny.sample(pipe, batch=2)
        close(tiny.sample(pipe)[0], together[0])
    with guide(pipe, rule, batching="sequential"):
        close(tiny.sample(pipe, batch=2), together)


def test_noise_is_the_seeds_and_no_other_random_numbers_are_drawn(sd: Any) -> None:
    generator, state = torch.Generator().manual_seed(3), torch.random.get_rng_state()
    ends = []
    for seed in (0, 0, 1):
        generator.manual_seed(3)
        with guide(sd, SelfGuidedMinority(5.0, every=1, seed=seed)):
            ends.append(tiny.sample(sd, 1.0, generator=generator))
    after = generator.get_state()
    generator.manual_seed(3)
    tiny.sample(sd, 1.0, generator=generator)
    assert torch.equal(generator.get_state(), after)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(ends[0], ends[1])
    assert not torch.allclose(ends[0], ends[2], atol=1e-4)


def test_late_rule_has_the_noise_of_the_start(sd: Any) -> None:
    late = SelfGuidedMinority(3.0, every=2).between(0.4, 1.0)
    with guide(sd, late):
        together = tiny.sample(sd, 1.0, batch=2)
        close(tiny.sample(sd, 1.0)[0], together[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_a_gradient(sd: Any, dtype: torch.dtype) -> None:
    rule = SelfGuidedMinority(3.0, every=1)
    with guide(sd, rule):
        full = tiny.sample(sd, 1.0, batch=2, steps=3)
    plain = tiny.sample(sd, 1.0, batch=2, steps=3)
    with guide(sd.to(dtype=dtype), rule) as run:
        guided = tiny.sample(sd, 1.0, batch=2, steps=3)
    assert guided.dtype == dtype
    # The noise is another one, as it is seeded by the bits of the sample.
    assert 0.5 < (guided - plain).norm() / (full - plain).norm() < 2
    lost = "SelfGuidedMinority: images without gradient"
    assert [record.extras.get(lost) for record in run.report.steps] == [0, 0, None]


def test_gradients_do_not_leak_and_offloading_works(sd: Any) -> None:
    rule = CFG(4.0) + SelfGuidedMinority(3.0, every=2)
    with guide(sd, rule):
        expected = tiny.sample(sd, batch=2)
    sd.enable_model_cpu_offload(device="cpu")
    with guide(sd, rule):
        for _ in range(2):
            found = tiny.sample(sd, batch=2)
            assert torch.equal(found, expected)
    assert not found.requires_grad
    networks = [part for part in sd.components.values() if isinstance(part, nn.Module)]
    assert all(p.grad is None for network in networks for p in network.parameters())


@pytest.mark.parametrize(
    "name",
    [
        "DDPMScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "PNDMScheduler",
    ],
)
def test_schedulers(sd: Any, name: str) -> None:
    sd.scheduler = tiny.scheduler(name)
    ends = []
    for scale in (0.0, 5.0):
        with guide(sd, SelfGuidedMinority(scale, every=1)) as run:
            ends.append(tiny.sample(sd, 1.0, batch=2))
    assert ends[1].isfinite().all()
    assert (ends[1] - ends[0]).abs().max() > 1e-3
    assert run.report.nfe > len(run.report.steps)


def test_unknown_noise_levels_are_refused() -> None:
    step = replace(gaussian(), alpha=math.nan, sigma=math.nan)
    with pytest.raises(ValueError, match="noise level of this scheduler is unknown"):
        SelfGuidedMinority(1.0, every=1).predict(step)


def test_channels_that_the_model_is_only_shown_stay(sd: Any) -> None:
    """An inpainting UNet has nine channels, of which four are the sample."""
    pipe = tiny.relative("StableDiffusionInpaintPipeline", tiny.sd(in_channels=9))
    image, mask = torch.rand(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
    call: dict[str, Any] = {"image": image, "mask_image": mask, "height": 16, "width": 16}
    plain = tiny.sample(pipe, 1.0, **call)
    with guide(pipe, SelfGuidedMinority(5.0, every=1)):
        guided = tiny.sample(pipe, 1.0, **call)
    assert guided.isfinite().all()
    assert (guided - plain).abs().max() > 1e-2


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str) -> None:
    pipe, ends = FAMILIES[name](), []
    for scale in (0.0, 5.0):
        with guide(pipe, SelfGuidedMinority(scale, every=1)) as run:
            ends.append(FAMILIES[name].call(pipe, scale=3.0, batch=2, steps=4))
    assert ends[1].isfinite().all()
    assert (ends[1] - ends[0]).abs().max() > 1e-5
    fired = sum("SelfGuidedMinority: error" in record.extras for record in run.report.steps)
    assert fired
    assert run.report.nfe == len(run.report.steps) + fired


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": -1}, "scale must be a finite number from 0 up"),
        ({"level": 1.1}, "level must be a finite number from 0 to 1"),
        ({"every": 0}, "every must be a finite number from 1 to"),
        ({"every": 1.5}, "every must be a whole number, found 1.5"),
        ({"draws": 0}, "draws must be a finite number from 1 to"),
        ({"seed": 0.5}, "seed must be a whole number, found 0.5"),
    ],
)
def test_impossible_settings_raise(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"SelfGuidedMinority: {message}"):
        SelfGuidedMinority(**settings)
    with pytest.raises(TypeError, match="SelfGuidedMinority: distance must be 'mse', 'lpips' or"):
        SelfGuidedMinority(distance="psnr")


def test_distance_that_cannot_be_followed_is_refused() -> None:
    blind: list[Callable[[Tensor, Tensor], Tensor]] = [
        lambda a, b: (a - b).detach().flatten(1).sum(1),
        lambda a, b: torch.zeros(len(a)),
    ]
    for distance in blind:
        with pytest.raises(ValueError, match="SelfGuidedMinority must be differentiable"):
            SelfGuidedMinority(1.0, every=1, distance=distance).predict(gaussian())


def test_repr_json_and_text_rebuild_it() -> None:
    rule = SelfGuidedMinority(linear(0, 3), 0.7, 2, 3, "lpips", 4).between(0.1, 0.9)
    names = {cls.__name__: cls for cls in (SelfGuidedMinority, linear)}
    assert eval(repr(rule), names) == rule
    assert Rule.from_config(json.loads(json.dumps(rule.to_config()))) == rule
    assert parse_rule(repr(rule)) == rule
    assert repr(SelfGuidedMinority()) == "SelfGuidedMinority()"
