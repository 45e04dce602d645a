"""Classifier guidance: exact posteriors of known mixtures, finite differences, pipelines."""

from __future__ import annotations

import gc
import json
import math
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guidance import CFG, COND, UNCOND, ClassifierGuidance, Rule, Step, guide, linear
from guidance.classifier_guidance import classifier_guidance
from guidance.core.gradient import finite_rows, gradient
from guidance.core.prediction import PREDICTION_TYPES
from guidance.core.spec import parse_rule
from tests import tiny
from tests.guidance.mixture import LEVELS, NAMES, Mixture
from tests.guidance.rules import Projection
from tests.tiny import close
from tests.tiny_families import FAMILIES


def noisy(images: int = 6) -> Tensor:
    return torch.randn(images, 4, dtype=torch.float64)


def test_pure_function_per_sample() -> None:
    eps, slope = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    scale = torch.tensor([0.0, 1.0, 10.0], dtype=torch.float64)
    result = classifier_guidance(eps, slope, scale, 0.6)
    for b in range(3):
        torch.testing.assert_close(result[b], eps[b] - 0.6 * scale[b] * slope[b])
    assert torch.equal(classifier_guidance(eps, slope, 0.0, 0.6), eps)
    half = classifier_guidance(eps.half(), slope, 2.0, 0.6)
    assert half.dtype == torch.float16


class Unconditional:
    """A model without classes, judged by the exact posterior of its noisy samples."""

    def __init__(self, classes: int = 3) -> None:
        self.mixture = Mixture.of(classes)

    def judge(self, x: Tensor, step: Step) -> Tensor:
        return self.mixture.logits(x, step.alpha, step.sigma)

    def step(self, x: Tensor, alpha: float, sigma: float, kind: str = "epsilon") -> Step:
        step = self.mixture.step(x, alpha, sigma, (0,) * len(x), kind)
        return replace(step, evaluator=lambda branch: step.evaluator(UNCOND))


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_exact_posterior_gives_the_conditional_score(kind: str, alpha: float, sigma: float) -> None:
    model = Unconditional()
    step = model.step(noisy(), alpha, sigma, kind)
    targets = (0, 1, 2, 0, 1, 2)
    guided = ClassifierGuidance(1.0, model.judge, targets).predict(step)
    every = model.mixture.eps(step.x, step.alpha, step.sigma)
    expected = every[torch.tensor(targets), torch.arange(6)]
    torch.testing.assert_close(step.eps(guided), expected, rtol=0, atol=1e-10)


def test_scale_of_the_exact_posterior_is_that_of_classifier_free_guidance() -> None:
    model = Unconditional()
    x = noisy()
    guided = ClassifierGuidance(4.0, model.judge, 2).predict(model.step(x, 0.6, 0.8))
    free = CFG(4.0).predict(model.mixture.step(x, 0.6, 0.8, (2,) * 6))
    torch.testing.assert_close(guided, free, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_change_in_every_space_is_the_derived_one(kind: str) -> None:
    model = Unconditional()
    step = model.step(noisy(), 0.6, 0.8, kind)
    cond, rule = step.evaluate(COND), ClassifierGuidance(2.0, model.judge, 1)
    _, slope = gradient(
        lambda x: torch.log_softmax(model.judge(x, step), 1)[:, 1], step.x, "the log probability"
    )
    factor = {
        "epsilon": -step.sigma,
        "sample": step.sigma**2 / step.alpha,
        "v_prediction": -step.sigma / step.alpha,
        "flow_prediction": -step.sigma / step.alpha,
    }[kind]
    torch.testing.assert_close(rule.predict(step) - cond, 2.0 * factor * slope)


def test_gradient_is_that_of_finite_differences() -> None:
    model = Unconditional()
    step = model.step(noisy(2), 0.6, 0.8)
    guided = ClassifierGuidance(1.0, model.judge, (0, 2)).predict(step)
    slope = (step.evaluate(COND) - guided) / step.sigma
    for b, k in enumerate((0, 2)):
        for d in range(4):
            moved = []
            for h in (1e-5, -1e-5):
                x = step.x.clone()
                x[b, d] += h
                moved.append(torch.log_softmax(model.judge(x, step), 1)[b, k])
            torch.testing.assert_close(slope[b, d], (moved[0] - moved[1]) / 2e-5, atol=1e-8, rtol=0)


def test_ancestral_form_agrees_to_first_order() -> None:
    """Of the mean of the next sample; the paper's algorithm 1 shifts it by variance times s g."""
    x, eps, slope = noisy(3), noisy(3), noisy(3)
    for beta in (1e-2, 1e-3, 1e-4):
        signal = 0.5

        def mean(noise: Tensor, beta: float = beta, signal: float = signal) -> Tensor:
            return (x - beta / math.sqrt(1 - signal) * noise) / math.sqrt(1 - beta)

        guided = classifier_guidance(eps, slope, 3.0, math.sqrt(1 - signal))
        shifted = mean(eps) + 3.0 * beta * slope
        assert (mean(guided) - shifted).abs().max() < 10 * beta**2


def test_classifier_of_x0_holds_the_noise_fixed() -> None:
    """Its gradient by the noisy sample is that of finite differences with the model's noise."""
    judge, model = Projection(("a", "b", "c")), Unconditional()
    step = model.step(noisy(2), 0.6, 0.8, "v_prediction")
    guided = ClassifierGuidance(1.0, judge, (0, 2)).predict(step)
    eps = step.eps(step.evaluate(COND))
    slope = (eps - step.eps(guided)) / step.sigma
    for b, k in enumerate((0, 2)):
        for d in range(4):
            moved = []
            for h in (1e-5, -1e-5):
                x = step.x.clone()
                x[b, d] += h
                x0 = (x - step.sigma * eps) / step.alpha
                moved.append(torch.log_softmax(judge.logits(x0, step), 1)[b, k])
            torch.testing.assert_close(slope[b, d], (moved[0] - moved[1]) / 2e-5, atol=1e-8, rtol=0)


def test_neutral_scale_and_pure_noise_ask_nobody() -> None:
    def never(x: Tensor, step: Step) -> Tensor:
        raise AssertionError

    step = Unconditional().step(noisy(2), 0.6, 0.8)
    cond = step.evaluate(COND)
    assert torch.equal(ClassifierGuidance(0.0, never, 0).predict(step), cond)
    for alpha in (0.0, 0.0009):
        start = replace(step, alpha=alpha, sigma=1.0, prediction_type="flow_prediction")
        assert torch.equal(ClassifierGuidance(9.0, never, 0).predict(start), cond)
    with pytest.raises(AssertionError):
        ClassifierGuidance(9.0, never, 0).predict(replace(step, alpha=0.0011))


def test_images_without_gradient_are_left_alone_and_counted() -> None:
    def judge(x: Tensor, step: Step) -> Tensor:
        broken = torch.tensor([1.0, math.nan, 1.0, math.inf])[:, None]
        return x[:, :2] * broken

    step = Unconditional().step(noisy(4), 0.6, 0.8)
    cond, guided = step.evaluate(COND), ClassifierGuidance(2.0, judge, 0).predict(step)
    changed = (guided != cond).flatten(1).any(1).tolist()
    assert changed == [True, False, True, False]
    assert guided.isfinite().all()
    assert step.notes["ClassifierGuidance: images without gradient"] == 2
    tensor = torch.tensor([[1.0, 2.0], [math.inf, 0.0]])
    rows, lost = finite_rows(tensor)
    assert (rows.tolist(), lost) == ([[1, 2], [0, 0]], 1)


class Network(nn.Module):
    """A noise-aware classifier with weights, told the time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.head = nn.Linear(9, 5)
        self.seen: list[Any] = []

    def forward(self, x: Tensor, step: Step) -> Tensor:
        assert x.requires_grad and not step.x.requires_grad
        self.seen.append(weakref.ref(x))
        features = torch.tanh(self.conv(x)).mean((2, 3))
        time = torch.full((len(x), 1), step.timestep / 1000)
        return self.head(torch.cat([features, time], 1))


def test_gradients_do_not_leak(sd: Any) -> None:
    network = Network()
    with guide(sd, CFG(3.0) + ClassifierGuidance(40.0, network, 3)) as run:
        guided = tiny.sample(sd, batch=2)
    assert not guided.requires_grad
    assert all(
        parameter.grad is None for parameter in (*network.parameters(), *sd.unet.parameters())
    )
    assert run.report.nfe == 8
    gc.collect()
    assert len(network.seen) == 4
    assert not any(x() is not None for x in network.seen)


def test_inference_mode_is_refused() -> None:
    model = Unconditional()
    with torch.inference_mode(), pytest.raises(ValueError, match="leave out no_grad, inference_m"):
        ClassifierGuidance(2.0, model.judge, 0).predict(model.step(noisy(2), 0.6, 0.8))


def test_raises_the_probability_of_the_target(sd: Any) -> None:
    """The last log p of the report against that without guidance."""
    network, last = Network(), []
    for scale in (1e-6, 100.0):
        with guide(sd, ClassifierGuidance(scale, network, (1, 4))) as run:
            tiny.sample(sd, scale=1.0, batch=2)
        assert run.report.nfe == 4
        last.append(run.report.steps[-1].extras["ClassifierGuidance: log p"])
    assert all(after > before + 0.01 for before, after in zip(*last, strict=True))


def test_image_alone_and_in_a_batch_are_the_same(pipe: Any) -> None:
    with guide(pipe, ClassifierGuidance(20.0, Network(), (3, 1))):
        together = tiny.sample(pipe, batch=2)
    with guide(pipe, ClassifierGuidance(20.0, Network(), 3)):
        close(tiny.sample(pipe)[0], together[0])


def test_target_is_read_from_the_prompt(sd: Any) -> None:
    with guide(sd, ClassifierGuidance(20.0, Projection(), (0, 1))):
        expected = tiny.sample(sd, batch=2)
    with guide(sd, ClassifierGuidance(20.0, Projection())):
        assert torch.equal(tiny.sample(sd, batch=2), expected)
    call: dict[str, Any] = {"num_images_per_prompt": 2}
    results = []
    for target in (None, (0, 1)):
        call["generator"] = torch.Generator().manual_seed(4)
        with guide(sd, ClassifierGuidance(20.0, Projection(), target)):
            results.append(tiny.sample(sd, batch=2, **call))
    assert torch.equal(*results)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str) -> None:
    def judge(x: Tensor, step: Step) -> Tensor:
        return Projection().logits(x, step)

    pipe = FAMILIES[name]()
    rules: list[Rule] = [ClassifierGuidance(s, judge, 2) for s in (0.0, 10.0)]
    rules.append(ClassifierGuidance(10.0, Projection(), 2))
    plain, guided, other = (sampled(name, pipe, rule) for rule in rules)
    for result in (guided, other):
        assert result.isfinite().all()
        assert (result - plain).abs().max() > 1e-5


def sampled(name: str, pipe: Any, rule: Rule) -> Tensor:
    with guide(pipe, rule) as run:
        result = FAMILIES[name].call(pipe, scale=3.0, batch=2, steps=3)
    assert run.report.nfe == len(run.report.steps)
    return result


def test_bad_settings_and_classifiers() -> None:
    step = Unconditional().step(noisy(2), 0.6, 0.8)
    judge = Projection()
    with pytest.raises(TypeError, match="classifier must be a function of the noisy sample"):
        ClassifierGuidance(1.0, "classifier", 1)
    for target in (-1, "fox", 1.5, (), (0, -1), True):
        with pytest.raises(TypeError, match="target must be the number of a class from 0 up"):
            ClassifierGuidance(1.0, judge, target)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="target must be the number of a class"):
        ClassifierGuidance(1.0, judge.logits)
    with pytest.raises(ValueError, match="scale must be a finite number from 0 up"):
        ClassifierGuidance(-1.0, judge)
    with pytest.raises(ValueError, match="target must be given where the call has no prompts"):
        ClassifierGuidance(1.0, judge).predict(replace(step, prompts=None))
    with pytest.raises(ValueError, match="one item for each prompt of the call, found 3 for 2"):
        ClassifierGuidance(1.0, judge, (0, 1, 2)).predict(step)
    with pytest.raises(ValueError, match=r"more than 4 classes, found shape \(2, 4\)"):
        ClassifierGuidance(1.0, judge, (0, 4)).predict(step)
    with pytest.raises(ValueError, match=r"logits \(images, classes\) of 2 images .* \(2,\)"):
        ClassifierGuidance(1.0, lambda x, step: x.sum(1), 0).predict(step)
    for blind in (lambda x, step: judge.logits(x.detach(), step), Blind()):
        with pytest.raises(ValueError, match="must be differentiable, found a result"):
            ClassifierGuidance(1.0, blind, 0).predict(step)


class Blind(nn.Module):
    """A network that sees nothing but its own weights."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return self.bias.expand(len(x), 3)


def test_repr_json_and_text_rebuild_it() -> None:
    rule = ClassifierGuidance(linear(0, 3), Projection(NAMES), (1, 0)).between(0.1, 0.9)
    names = {cls.__name__: cls for cls in (ClassifierGuidance, Projection, linear)}
    assert eval(repr(rule), names) == rule
    assert Rule.from_config(json.loads(json.dumps(rule.to_config()))) == rule
    assert parse_rule(repr(rule)) == rule
    network = ClassifierGuidance(1.0, Network(), [1])
    assert repr(network) == "ClassifierGuidance(scale=1.0, classifier=<Network>, target=(1,))"
    named = ClassifierGuidance(1.0, Projection().logits, 1)
    assert repr(named) == "ClassifierGuidance(scale=1.0, classifier=<logits>, target=1)"
