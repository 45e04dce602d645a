"""Minority guidance: exact scores of Gaussians and mixtures, Bayes' rule of shells, pipelines."""

from __future__ import annotations

import builtins
import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guidance import CFG, COND, MinorityGuidance, Rule, Step, guide, linear
from guidance.core.prediction import PREDICTION_TYPES
from guidance.core.spec import parse_rule
from guidance.minority import minority_score, quantile_labels
from tests import tiny
from tests.guidance.mixture import LEVELS
from tests.guidance.rules import NoisyProjection
from tests.tiny import close
from tests.tiny_families import FAMILIES

MEAN, SD = 0.5, 1.3
SHELLS = ((0.0, 0.6), (0.6, 1.5), (1.5, 2.4), (2.4, math.inf))
"""Distances from the mean, from common to rare."""


# The score


def test_mean_squared_error_is_the_weighted_error_of_the_noise_for_any_network() -> None:
    x0, noise, predicted = torch.randn(3, 4, 2, 5, 5, dtype=torch.float64)
    for alpha, sigma in LEVELS:
        x = alpha * x0 + sigma * noise
        x0_hat = (x - sigma * predicted) / alpha
        expected = (predicted - noise).square().flatten(1).mean(1) * (sigma / alpha) ** 2
        torch.testing.assert_close(minority_score(x0, x0_hat), expected)


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_score_of_gaussian_data_has_a_closed_form(alpha: float, sigma: float) -> None:
    """``sum_i (s^2 / V_i)^2 (x0_i - mu_i)^2 + (a lam_i s / V_i)^2``, here by Hermite quadrature."""
    mean, spread = torch.randn(6, dtype=torch.float64), 0.2 + torch.rand(6, dtype=torch.float64)
    x0 = torch.randn(5, 6, dtype=torch.float64)
    variance = alpha**2 * spread + sigma**2
    points, weights = np.polynomial.hermite_e.hermegauss(8)
    average = torch.zeros(5, dtype=torch.float64)
    for point, weight in zip(points, weights / weights.sum(), strict=True):
        x = alpha * x0 + sigma * point
        x0_hat = mean + alpha * spread / variance * (x - alpha * mean)
        average += weight * minority_score(x0, x0_hat, "mse")
    bias = (sigma**2 / variance).square() * (x0 - mean).square()
    expected = (bias + (alpha * spread * sigma / variance).square()).sum(1)
    torch.testing.assert_close(6 * average, expected)


def test_score_of_isotropic_data_ranks_by_negative_log_density() -> None:
    x0, noise = torch.randn(50, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    for alpha, sigma in LEVELS:
        shrink = alpha / (alpha**2 + sigma**2)
        pair = [alpha * x0 + sign * sigma * noise for sign in (1, -1)]
        score = sum(minority_score(x0, shrink * x) for x in pair)
        assert isinstance(score, Tensor)
        assert torch.equal(score.argsort(), x0.square().sum(1).argsort())


def test_rarer_mode_of_a_mixture_scores_higher_and_equal_modes_the_same() -> None:
    modes = torch.tensor([[-2.0], [2.0]], dtype=torch.float64)
    alpha, sigma, spread = 0.3, 0.95, 0.05
    variance = alpha**2 * spread + sigma**2
    points, weights = np.polynomial.hermite_e.hermegauss(60)

    def scores(share: float) -> list[float]:
        log_prior = torch.tensor([share, 1 - share], dtype=torch.float64).log()
        total = torch.zeros(2, dtype=torch.float64)
        for point, weight in zip(points, weights / weights.sum(), strict=True):
            x = alpha * modes + sigma * point
            p = torch.softmax(log_prior - (x - alpha * modes.T).square() / 2 / variance, 1)
            each = modes.T + alpha * spread / variance * (x - alpha * modes.T)
            total += weight * minority_score(modes, (p * each).sum(1, keepdim=True))
        return total.tolist()

    common, rare = scores(0.9)
    assert rare > 2 * common
    equal = scores(0.5)
    assert equal[0] == pytest.approx(equal[1], rel=1e-12)


def test_score_is_taken_in_float32_and_by_any_distance() -> None:
    x0, x0_hat = 300 + torch.rand(2, 3, 4, 8, 8)
    expected = (x0.half().float() - x0_hat.half().float()).square().flatten(1).mean(1)
    torch.testing.assert_close(minority_score(x0.half(), x0_hat.half()), expected)

    def largest(a: Tensor, b: Tensor) -> Tensor:
        assert a.dtype == b.dtype == torch.float32
        return (a - b).abs().flatten(1).amax(1)

    half = minority_score(x0.half(), x0_hat.half(), largest)
    torch.testing.assert_close(half, largest(x0.half().float(), x0_hat.half().float()))


def test_impossible_scores_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    x0 = torch.zeros(2, 3, 4, 4)
    with pytest.raises(TypeError, match=r"'mse', 'lpips' or a function .* found 'psnr'"):
        minority_score(x0, x0, "psnr")
    with pytest.raises(ValueError, match=r"one shape, found \(2, 3, 4, 4\) and \(1, 3, 4, 4\)"):
        minority_score(x0, x0[:1])
    with pytest.raises(ValueError, match=r"each of the 2 pictures, found shape \(\)"):
        minority_score(x0, x0, lambda a, b: (a - b).mean())
    with pytest.raises(ValueError, match="each of the 2 pictures, found float"):
        minority_score(x0, x0, lambda a, b: 1.0)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match=r"lpips takes pictures .* found shape \(2, 4, 4, 4\)"):
        minority_score(torch.zeros(2, 4, 4, 4), torch.zeros(2, 4, 4, 4), "lpips")
    plain = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "lpips":
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="needs the package lpips, which is not installed"):
        minority_score(x0, x0, "lpips")


# Labels


def reference(scores: list[float], classes: int) -> list[int]:
    """By the definition: class j holds ``q_{j-1} < l <= q_j``."""
    q = [float(np.quantile(scores, (j + 1) / classes)) for j in range(classes)]
    q[-1] = max(scores)
    return [next(j for j in range(classes) if score <= q[j]) for score in scores]


@pytest.mark.parametrize(("size", "classes"), [(1000, 10), (997, 7), (10, 10), (3, 2), (5, 8)])
def test_labels_are_the_quantiles(size: int, classes: int) -> None:
    scores = torch.rand(size, dtype=torch.float64).square()
    labels = quantile_labels(scores, classes)
    assert labels.dtype == torch.long
    assert labels.tolist() == reference(scores.tolist(), classes)
    order = scores.argsort()
    assert (labels[order].diff() >= 0).all()
    assert labels[order[0]] == 0
    assert labels[order[-1]] == classes - 1
    if size % classes == 0:
        assert torch.equal(labels.bincount(), torch.full((classes,), size // classes))


def test_ties_share_a_class_and_equal_scores_are_all_common() -> None:
    assert quantile_labels(torch.ones(6), 3).tolist() == [0] * 6
    labels = quantile_labels(torch.tensor([1.0, 1, 1, 1, 2, 3]), 3)
    assert labels.tolist() == reference([1, 1, 1, 1, 2, 3], 3)
    assert len({int(label) for label in labels[:4]}) == 1


def test_labels_within_groups_are_those_of_each_group_alone() -> None:
    scores = torch.rand(60)
    groups = ["cat", "dog", "owl"] * 20
    scores[::3] += 10
    labels = quantile_labels(scores, 4, groups)
    for name in range(3):
        assert torch.equal(labels[name::3], quantile_labels(scores[name::3], 4))
    assert not torch.equal(labels, quantile_labels(scores, 4))


def test_impossible_labels_raise() -> None:
    good = torch.rand(4)
    for scores in (good[None], torch.tensor([1.0, math.nan]), torch.tensor([])):
        with pytest.raises(ValueError, match=r"scores must be finite numbers \(N,\)"):
            quantile_labels(scores, 2)
    for classes in (1, 2.5, "3"):
        with pytest.raises(ValueError, match="classes must be a number from 2 up"):
            quantile_labels(good, classes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="groups must be one for each of 4 scores, found 2"):
        quantile_labels(good, 2, ["a", "b"])


# Guidance by the exact classifier of shells around the mean of N(MEAN, SD^2)


def log_between(low: Tensor, high: Tensor) -> Tensor:
    """``log(Phi(high) - Phi(low))``, also far out in a tail."""
    low, high = torch.where(low + high > 0, -high, low), torch.where(low + high > 0, -low, high)
    inner, outer = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return inner + torch.log1p(-torch.exp(outer - inner))


def shells(x: Tensor, step: Step) -> Tensor:
    """``log p(shell | x)`` of samples ``(B, 1)``."""
    a, s = step.alpha, step.sigma
    v = a**2 * SD**2 + s**2
    m, r = a * SD**2 / v * (x - a * MEAN), SD * s / math.sqrt(v)
    parts = [
        torch.logaddexp(
            log_between((lo - m) / r, (min(hi, 50) - m) / r),
            log_between((-min(hi, 50) - m) / r, (-lo - m) / r),
        )
        for lo, hi in SHELLS
    ]
    return torch.cat(parts, 1)


def step_of(
    x: Tensor, alpha: float, sigma: float, kind: str = "epsilon", index: int = 0, count: int = 10
) -> Step:
    """A step of the exact model of N(MEAN, SD^2)."""

    def evaluate(branch: Any) -> Tensor:
        eps = sigma * (x - alpha * MEAN) / (alpha**2 * SD**2 + sigma**2)
        return step.from_eps(eps)

    step = Step(index, count, 1.0, alpha, sigma, x, kind, evaluate)
    return step


def test_classes_of_the_exact_classifier_sum_to_one() -> None:
    x = torch.linspace(-4, 5, 40, dtype=torch.float64)[:, None]
    p = shells(x, step_of(x, 0.6, 0.8)).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(40, dtype=torch.float64))


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize(("alpha", "sigma"), [*LEVELS, (0.05, math.sqrt(1 - 0.05**2))])
@pytest.mark.parametrize("label", [0, 1, 2, None])
def test_guidance_is_the_score_of_the_data_within_a_shell(
    kind: str, alpha: float, sigma: float, label: int | None
) -> None:
    """Against numeric integration of x0 over the shell, at every noise level."""
    if kind == "flow_prediction":
        alpha = 1 - sigma
    x = alpha * MEAN + torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    step = step_of(x, alpha, sigma, kind)
    guided = MinorityGuidance(1.0, shells, label).predict(step)
    lo, hi = SHELLS[-1 if label is None else label]
    away = torch.linspace(lo, min(hi, 12 * SD), 200_001, dtype=torch.float64)
    x0 = torch.cat([MEAN + away, MEAN - away])
    log_p = -(x0 - MEAN).square() / 2 / SD**2 - (x - alpha * x0).square() / 2 / sigma**2
    weight = torch.softmax(log_p, 1)
    weight[:, [0, len(away) - 1, len(away), -1]] /= 2  # trapezoids
    mean = (weight * x0).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    torch.testing.assert_close(step.x0(guided), mean, atol=1e-5, rtol=1e-5)


def test_outer_shell_pulls_outwards_and_not_at_all_from_the_mean() -> None:
    alpha, sigma = 0.6, 0.8
    x = alpha * MEAN + torch.tensor([[-1.0], [-0.1], [0.0], [0.1], [1.0]], dtype=torch.float64)
    step = step_of(x, alpha, sigma)
    moved = (step.evaluate(COND) - MinorityGuidance(1.0, shells).predict(step))[:, 0]
    assert moved.sign().tolist() == [-1, -1, 0, 1, 1]


def sampled(rule: Rule | None, count: int = 1000, steps: int = 80) -> Tensor:
    """Samples by ancestral steps with the exact model, from a grid of levels."""
    generator = torch.Generator().manual_seed(5)
    angles = torch.linspace(math.pi / 2 - 0.02, 0.005, steps + 1, dtype=torch.float64)
    levels = [(math.cos(angle), math.sin(angle)) for angle in angles]
    x = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    for index, ((a, s), (a2, s2)) in enumerate(pairwise(levels)):
        step = step_of(x, a, s, index=index, count=steps)
        x0 = step.x0(rule.predict(step) if rule else step.evaluate(COND))
        r, b = a / a2, s**2 - (a / a2) ** 2 * s2**2
        noise = torch.randn(count, 1, generator=generator, dtype=torch.float64)
        x = r * s2**2 / s**2 * x + a2 * b / s**2 * x0 + math.sqrt(b) * s2 / s * noise
    return x[:, 0]


@pytest.mark.parametrize("label", [1, 3])
def test_samples_follow_the_data_within_the_shell(label: int) -> None:
    """No sample is far outside, and equally likely parts of the shell hold as many."""
    away = (sampled(MinorityGuidance(1.0, shells, label)) - MEAN).abs() / SD
    lo, hi = (edge / SD for edge in SHELLS[label])
    assert ((away > lo - 0.03) & (away < hi + 0.03)).double().mean() > 0.98
    ends = torch.special.ndtr(torch.tensor([lo, hi], dtype=torch.float64))
    p = (torch.special.ndtr(away.clamp(lo, hi)) - ends[0]) / (ends[1] - ends[0])
    shares = torch.histc(p, 5, 0, 1) / len(p)
    assert (shares - 1 / 5).abs().max() < 0.05
    plain = (sampled(None) - MEAN).abs() / SD
    assert ((plain > lo) & (plain < hi)).double().mean() < 0.5


def test_scale_zero_is_the_base_sampler() -> None:
    assert torch.equal(sampled(MinorityGuidance(0.0, shells), 50), sampled(None, 50))


def test_ancestral_means_of_score_and_mean_form() -> None:
    """With variance b the mean moves by ``b / sqrt(1 - b) w g`` here, ``b w g`` in the paper's."""
    x = torch.tensor([[1.7]], dtype=torch.float64)
    a2 = 0.8
    for b in (0.02, 0.002):
        a = a2 * math.sqrt(1 - b)
        step = step_of(x, a, math.sqrt(1 - a**2))
        base, guided = step.evaluate(COND), MinorityGuidance(3.5, shells).predict(step)
        slope = (base - guided) / step.sigma / 3.5

        def mean(noise: Tensor, step: Step = step, b: float = b) -> Tensor:
            return (x - b / step.sigma * noise) / math.sqrt(1 - b)

        shift = (mean(guided) - mean(base)) / (3.5 * b * slope)
        assert shift.item() == pytest.approx(1 / math.sqrt(1 - b))


# The rule


def test_scale_schedule_and_label_per_image() -> None:
    x = MEAN + torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None]
    step = replace(step_of(x, 0.6, 0.8), index=5)
    each = MinorityGuidance(linear(0, 4), shells, (1, 3)).predict(step)
    for rows, label in ((slice(0, 2), 1), (slice(2, 4), 3)):
        one = MinorityGuidance(2.0, shells, label).predict(step)
        assert torch.equal(each[rows], one[rows])
    assert step.notes["MinorityGuidance: scale"] == 2.0
    assert len(step.notes["MinorityGuidance: log p"]) == 4


def test_neutral_scale_and_pure_noise_ask_nobody() -> None:
    def never(x: Tensor, step: Step) -> Tensor:
        raise AssertionError

    step = step_of(torch.randn(3, 1, dtype=torch.float64), 0.6, 0.8)
    cond = step.evaluate(COND)
    assert torch.equal(MinorityGuidance(0.0, never).predict(step), cond)
    start = replace(step, alpha=0.0009, sigma=1.0)
    assert torch.equal(MinorityGuidance(9.0, never).predict(start), cond)
    with pytest.raises(AssertionError):
        MinorityGuidance(9.0, never).predict(replace(step, alpha=0.0011))


def test_images_without_gradient_are_left_alone_and_counted() -> None:
    def judge(x: Tensor, step: Step) -> Tensor:
        return x * torch.tensor([[1.0, 2.0], [math.nan, 1.0], [1.0, 2.0]])

    step = step_of(torch.randn(3, 1), 0.6, 0.8)
    cond, guided = step.evaluate(COND), MinorityGuidance(2.0, judge).predict(step)
    assert (guided != cond).flatten().tolist() == [True, False, True]
    assert step.notes["MinorityGuidance: images without gradient"] == 1


class Network(nn.Module):
    """A noise-aware classifier with weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.head = nn.Conv2d(4, 8, 3, padding=1), nn.Linear(9, 5)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        assert x.dtype == torch.float32
        time = torch.full((len(x), 1), step.timestep / 1000)
        return self.head(torch.cat([torch.tanh(self.conv(x)).mean((2, 3)), time], 1))


def test_adds_to_classifier_free_guidance_in_score_space(sd: Any) -> None:
    network = Network()
    with guide(sd, CFG(4.0) + MinorityGuidance(1000.0, network)) as run:
        guided = tiny.sample(sd, batch=2, steps=1)
    assert [record.evaluations for record in run.report.steps] == [2]
    with guide(sd, CFG(4.0)):
        free = tiny.sample(sd, batch=2, steps=1)
    with guide(sd, MinorityGuidance(1000.0, network)):
        minority = tiny.sample(sd, batch=2, steps=1)
    with guide(sd, CFG(1.0)):
        plain = tiny.sample(sd, batch=2, steps=1)
    assert (minority - plain).abs().max() > 1e-3
    close(guided - free, minority - plain)
    assert all(p.grad is None for p in (*network.parameters(), *sd.unet.parameters()))


def test_raises_the_probability_of_the_label(sd: Any) -> None:
    last = []
    for scale in (1e-6, 100.0):
        with guide(sd, MinorityGuidance(scale, Network(), (1, 4))) as run:
            tiny.sample(sd, scale=1.0, batch=2)
        assert run.report.nfe == 4
        last.append(run.report.steps[-1].extras["MinorityGuidance: log p"])
    assert all(after > before + 0.01 for before, after in zip(*last, strict=True))


def test_image_alone_and_in_a_batch_are_the_same(pipe: Any) -> None:
    with guide(pipe, CFG(3.0) + MinorityGuidance(20.0, Network(), (3, 1))):
        together = tiny.sample(pipe, batch=2)
    with guide(pipe, CFG(3.0) + MinorityGuidance(20.0, Network(), 3)):
        close(tiny.sample(pipe)[0], together[0])


def test_neutral_scale_in_a_chain_is_the_chain_without_it_bit_for_bit(sd: Any) -> None:
    ends = []
    for rule in (CFG(4.0), CFG(4.0) + MinorityGuidance(0.0, Network())):
        with guide(sd, rule) as run:
            ends.append(tiny.sample(sd, batch=2))
    assert torch.equal(*ends)
    assert {record.active for record in run.report.steps} == {("CFG",)}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str) -> None:
    pipe, ends = FAMILIES[name](), []
    for scale in (0.0, 10.0):
        with guide(pipe, MinorityGuidance(scale, NoisyProjection())) as run:
            ends.append(FAMILIES[name].call(pipe, scale=3.0, batch=2, steps=3))
        assert run.report.nfe == len(run.report.steps)
    assert ends[1].isfinite().all()
    assert (ends[1] - ends[0]).abs().max() > 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradient_in_half_precision(sd: Any, dtype: torch.dtype) -> None:
    with guide(sd.to(dtype=dtype), MinorityGuidance(20.0, Network())) as run:
        guided = tiny.sample(sd, 1.0, batch=2)
    assert guided.dtype == dtype
    assert guided.isfinite().all()
    lost = [
        record.extras["MinorityGuidance: images without gradient"] for record in run.report.steps
    ]
    assert lost == [0] * 4


def test_bad_settings_and_classifiers() -> None:
    step = step_of(torch.randn(2, 1, dtype=torch.float64), 0.6, 0.8)
    for classifier in (3, None, ("a", "b")):
        with pytest.raises(TypeError, match="classifier must be the folder of a trained one or a"):
            MinorityGuidance(1.0, classifier)
    with pytest.raises(TypeError, match="path must be the folder of a trained evaluator, found ''"):
        MinorityGuidance(1.0, "")
    with pytest.raises(ValueError, match="scale must be a finite number from 0 up"):
        MinorityGuidance(-1.0, shells)
    for label in (-1, "rare", 1.5, (), (0, -1), True):
        with pytest.raises(TypeError, match="label must be the number of a class from 0 up"):
            MinorityGuidance(1.0, shells, label)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one item for each prompt of the call, found 3 for 2"):
        MinorityGuidance(1.0, shells, (0, 1, 2)).predict(step)
    with pytest.raises(ValueError, match=r"more than 4 classes, found shape \(2, 4\)"):
        MinorityGuidance(1.0, shells, 4).predict(step)
    wrong: list[Callable[..., Any]] = [lambda x, step: x.sum(1), lambda x, step: x[:, :, None]]
    for judge in wrong:
        with pytest.raises(ValueError, match=r"logits \(images, classes\) of 2 images"):
            MinorityGuidance(1.0, judge).predict(step)
    with pytest.raises(ValueError, match="must be differentiable, found a result"):
        MinorityGuidance(1.0, lambda x, step: shells(x.detach(), step)).predict(step)


def test_repr_json_and_text_rebuild_it() -> None:
    rule = MinorityGuidance(linear(0, 3), NoisyProjection(), (1, 0)).between(0.1, 0.9)
    names = {cls.__name__: cls for cls in (MinorityGuidance, NoisyProjection, linear)}
    assert eval(repr(rule), names) == rule
    assert Rule.from_config(json.loads(json.dumps(rule.to_config()))) == rule
    assert parse_rule(repr(rule)) == rule
    assert parse_rule("MinorityGuidance(3.5, 'some/folder')") == MinorityGuidance(
        3.5, "some/folder"
    )
    assert repr(MinorityGuidance(1.0, shells)) == "MinorityGuidance(scale=1.0, classifier=<shells>)"
