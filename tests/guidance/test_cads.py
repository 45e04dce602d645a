"""CADS: the schedule, the statistics it keeps, and noise of each image's own."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from guidance import CFG, COND, Rescale, Rule, Step, guide
from guidance.adaptive import AdaptiveGuidance
from guidance.cads import CADS, annealing, cads
from guidance.core.spec import parse_rule
from tests import tiny, tiny_families
from tests.tiny import close

SHAPES = [(3, 7, 5), (3, 12)]


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    """Embeddings that are not standardised, and noise."""
    value, noise = torch.randn(2, *(shape or (3, 7, 5)), dtype=torch.float64)
    return 3 * value + 2, noise


def test_annealing_is_a_ramp() -> None:
    times = (1.0, 0.9, 0.75, 0.675, 0.6, 0.3, 0.0)
    assert [annealing(t, 0.6, 0.9) for t in times] == pytest.approx([0, 0, 0.5, 0.75, 1, 1, 1])
    assert [annealing(t, 0.5, 0.5) for t in (1.0, 0.51, 0.5, 0.0)] == [0, 0, 1, 1]
    assert annealing(1.0, 1.0, 1.0) == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_matches_a_loop_written_from_the_equations(shape: tuple[int, ...]) -> None:
    value, noise = pair(*shape)
    result = cads(value, noise, 0.3, 0.25, 0.8)
    for b in range(3):
        y = value[b]
        noisy = 0.3**0.5 * y + 0.25 * 0.7**0.5 * noise[b]
        scaled = (noisy - noisy.mean()) / noisy.std() * y.std() + y.mean()
        torch.testing.assert_close(result[b], 0.8 * scaled + 0.2 * noisy)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gamma", [0.0, 0.4, 0.99])
def test_full_mix_keeps_mean_and_spread_of_each_image(shape: tuple[int, ...], gamma: float) -> None:
    value, noise = pair(*shape)
    result = cads(value, noise, gamma, 0.5, 1.0).flatten(1)
    torch.testing.assert_close(result.mean(1), value.flatten(1).mean(1))
    torch.testing.assert_close(result.std(1), value.flatten(1).std(1))
    assert not torch.allclose(result, value.flatten(1))


def test_ends_of_the_ramp() -> None:
    value, noise = pair()
    assert cads(value, noise, 1.0, 0.5, 0.3) is value
    torch.testing.assert_close(cads(value, noise, 0.0, 0.25, 0.0), 0.25 * noise)
    correlation = torch.corrcoef(
        torch.stack([cads(value, noise, 0.0, 0.25, 1.0)[0].flatten(), noise[0].flatten()])
    )
    assert correlation[0, 1] == pytest.approx(1)


def test_embeddings_without_spread_stay_finite() -> None:
    value, noise = pair()
    assert torch.equal(cads(0 * value + 2, 0 * noise, 0.5, 1.0, 1.0), 0 * value + 2)
    assert torch.equal(
        cads(value, 0 * noise, 0.0, 1.0, 1.0).std(dim=(1, 2)), torch.zeros(3).double()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_keeps_dtype_and_stays_finite(dtype: torch.dtype) -> None:
    value, noise = (item.float() for item in pair(2, 77, 768))
    result = cads((300 * value).to(dtype), noise, 0.5, 0.25, 1.0)
    assert result.dtype == dtype
    assert result.isfinite().all()


def step(x: Tensor, memory: dict[Any, Any], index: int = 0) -> Step:
    return Step(
        index=index,
        count=4,
        timestep=1.0,
        alpha=0.6,
        sigma=0.8,
        x=x,
        prediction_type="epsilon",
        evaluator={COND: x}.__getitem__,
        memory=memory,
    )


def conditions(rule: CADS, x: Tensor, value: Tensor, steps: tuple[int, ...]) -> list[Tensor]:
    """Embeddings of a run whose sample changes a little from call to call."""
    memory: dict[Any, Any] = {}
    results = []
    for index in steps:
        at = step(x + index / 7, memory, index)
        results.append(rule.condition(at, "a", value) if rule.active(at) else value)
        assert torch.equal(rule.predict(at), at.x)
    return results


def test_noise_is_new_at_every_call_and_the_same_in_every_run() -> None:
    x, (value, _) = torch.randn(3, 4, 2, 2), pair()
    first, second, clean, _ = conditions(CADS(), x, value, (0, 1, 2, 3))
    assert not torch.allclose(first, second)
    assert clean is value
    again = conditions(CADS(), x, value, (0, 1))
    assert torch.equal(again[0], first)
    assert torch.equal(again[1], second)
    assert not torch.allclose(conditions(CADS(seed=1), x, value, (0,))[0], first)


def test_each_image_has_its_own_noise_whatever_its_batch_mates() -> None:
    x, (value, _) = torch.randn(3, 4, 2, 2), pair()
    value = value[:1].expand(3, -1, -1)
    together = conditions(CADS(), x, value, (0, 1))
    assert not torch.allclose(together[0][0], together[0][1])
    for image in range(3):
        one = slice(image, image + 1)
        for alone, all_ in zip(
            conditions(CADS(), x[one], value[one], (0, 1)), together, strict=True
        ):
            torch.testing.assert_close(alone[0], all_[image])
    shared = conditions(CADS(), x, value[:1], (0,))[0]
    assert torch.equal(shared, together[0])


def test_noise_starts_from_the_first_call_even_where_the_rule_rests() -> None:
    x, (value, _) = torch.randn(3, 4, 2, 2), pair()
    late = CADS(0.0, 0.1).between(0.5, 1.0)
    assert isinstance(late, CADS)
    resting, acting = conditions(late, x, value, (0, 2))
    assert resting is value
    assert not torch.equal(acting, value)
    memory: dict[Any, Any] = {}
    late.active(step(x, memory, 0))
    at = step(x + 1e-6, memory, 2)
    assert torch.equal(late.condition(at, "a", value), acting)


def test_neutral_settings_are_the_pipelines_guidance(sd: Any) -> None:
    native = tiny.sample(sd, scale=5.0, batch=2)
    with guide(sd, CFG(5.0) + CADS(1.0, 1.0)):
        assert torch.equal(tiny.sample(sd, batch=2), native)
    with guide(sd, CFG(5.0) + CADS()) as run:
        noisy = tiny.sample(sd, batch=2)
    assert not torch.allclose(noisy, native, atol=1e-3)
    assert [record.extras.get("CADS: gamma") for record in run.report.steps] == [
        0.0,
        pytest.approx(0.5),
        None,
        None,
    ]
    assert run.report.nfe == 8


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
def test_image_in_a_batch_is_the_image_alone(family: str) -> None:
    pipe: Any = tiny.FAMILIES[family]()
    with guide(pipe, CFG(5.0) + CADS()):
        together = tiny.sample(pipe, batch=2)
        close(tiny.sample(pipe)[0], together[0])
    with guide(pipe, CFG(5.0) + CADS(), batching="sequential"):
        close(tiny.sample(pipe, batch=2), together)


def test_two_call_pipelines_and_adaptive_guidance() -> None:
    family = tiny_families.FAMILIES["flux"]
    pipe = family()
    with guide(pipe, CFG(5.0)):
        plain = family.call(pipe, steps=4)
    with guide(pipe, CFG(5.0) + CADS()):
        noisy = family.call(pipe, steps=4)
    with guide(pipe, AdaptiveGuidance(CFG(5.0) + CADS(), 1.0)):
        close(family.call(pipe, steps=4), noisy)
    assert not torch.allclose(noisy, plain, atol=1e-3)


def test_other_random_numbers_are_left_alone(sd: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    state = torch.random.get_rng_state()
    with guide(sd, CFG(5.0) + CADS()):
        tiny.sample(sd, generator=generator)
    after = generator.get_state()
    generator.manual_seed(3)
    tiny.sample(sd, generator=generator)
    assert torch.equal(generator.get_state(), after)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_limited_rule_rests_alone_and_in_a_chain(sd: Any) -> None:
    native = tiny.sample(sd, scale=1.0)
    with guide(sd, CADS(0.0, 0.1).between(0.9, 1.0)):
        close(tiny.sample(sd, scale=1.0), native)
    with guide(sd, (CFG(1.0) + CADS(0.0, 0.1)).between(0.9, 1.0)):
        close(tiny.sample(sd), native)


def test_models_without_a_prompt_are_refused(dit: Any) -> None:
    with pytest.raises(ValueError, match="prompts in one tensor, and DiTTransformer2D"):
        guide(dit, CFG(4.0) + CADS())


@pytest.mark.parametrize(
    "rule", [CADS(), CADS(0.5, 0.8, 0.1, 0.9, 7).between(0, 0.5), CFG(4.0) + CADS() + Rescale(0.7)]
)
def test_repr_json_and_text_rebuild_it(rule: Rule) -> None:
    assert eval(repr(rule), {"CADS": CADS, "CFG": CFG, "Rescale": Rescale}) == rule
    assert Rule.from_config(json.loads(json.dumps(rule.to_config()))) == rule
    assert parse_rule(repr(rule)) == rule


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau1": 0.9, "tau2": 0.6}, "CADS: tau1 must not be above tau2, found 0.9 and 0.6"),
        ({"tau1": -0.1}, "CADS: tau1 must be a finite number from 0 to 1"),
        ({"tau2": 1.1}, "CADS: tau2 must be a finite number from 0 to 1"),
        ({"strength": float("inf")}, "CADS: strength must be a finite number from 0 up"),
        ({"mix": 2}, "CADS: mix must be a finite number from 0 to 1"),
        ({"seed": 1.5}, "CADS: seed must be a whole number, found 1.5"),
    ],
)
def test_impossible_settings_raise(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CADS(**settings)
    with pytest.raises(TypeError, match="CADS: mix"):
        CADS(mix="all")  # type: ignore[arg-type]
