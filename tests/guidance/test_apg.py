"""Adaptive projected guidance: identities, diffusers' own function, momentum over a run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance

from guidance import APG, CFG, COND, UNCOND, Step, guide, table
from guidance.apg import apg
from guidance.cfg import cfg
from tests import tiny
from tests.tiny import close

SHAPES = [(3, 6, 4), (3, 4, 5, 5), (3, 4, 2, 5, 5)]


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unconditional and conditional x0."""
    uncond, cond = torch.randn(2, *(shape or (3, 4, 5, 5)), dtype=torch.float64)
    return uncond, cond


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm_threshold", [0.0, float("inf")])
def test_keeping_everything_is_classifier_free_guidance(
    shape: tuple[int, ...], norm_threshold: float
) -> None:
    uncond, cond = pair(*shape)
    torch.testing.assert_close(apg(uncond, cond, 9.0, 1.0, norm_threshold), cfg(uncond, cond, 9.0))


@pytest.mark.parametrize("shape", SHAPES)
def test_without_the_parallel_part_the_update_is_orthogonal_to_cond(shape: tuple[int, ...]) -> None:
    uncond, cond = pair(*shape)
    update = (apg(uncond, cond, 9.0, 0.0, 2.0) - cond).flatten(1)
    assert (update * cond.flatten(1)).sum(1).abs().max() < 1e-10
    assert (update.norm(dim=1) > 1).all()


def test_norm_of_the_difference_is_limited_per_sample() -> None:
    uncond, cond = pair()
    uncond[0] = cond[0] + 0.01 * uncond[0]
    difference = (apg(uncond, cond, 2.0, 1.0, 1.5) - cond).flatten(1)
    norms = difference.norm(dim=1)
    torch.testing.assert_close(difference[0], (cond - uncond)[0].flatten())
    torch.testing.assert_close(norms[1:], torch.full((2,), 1.5, dtype=torch.float64))


@pytest.mark.parametrize(("eta", "norm_threshold"), [(0.0, 0.0), (0.3, 2.0), (1.0, 15.0)])
def test_equals_diffusers_in_its_other_convention(eta: float, norm_threshold: float) -> None:
    uncond, cond = pair()
    update = apg(uncond, cond, 2.0, eta, norm_threshold) - cond
    theirs = normalized_guidance(cond, uncond, 6.0, None, eta, norm_threshold)
    torch.testing.assert_close(uncond + 6.0 * update, theirs)
    original = normalized_guidance(cond, uncond, 6.0, None, eta, norm_threshold, True)
    torch.testing.assert_close(apg(uncond, cond, 7.0, eta, norm_threshold), original)


def test_matches_a_loop_written_from_the_equations() -> None:
    uncond, cond = pair()
    scale = torch.tensor([0.5, 4.0, 12.0], dtype=torch.float64)
    result = apg(uncond, cond, scale, 0.25, 3.0)
    for b in range(3):
        d = cond[b] - uncond[b]
        d = d * min(1.0, 3.0 / float((d * d).sum()) ** 0.5)
        parallel = (d * cond[b]).sum() / (cond[b] * cond[b]).sum() * cond[b]
        update = (d - parallel) + 0.25 * parallel
        torch.testing.assert_close(result[b], cond[b] + (scale[b] - 1) * update)


def test_neutral_and_degenerate_inputs() -> None:
    uncond, cond = pair()
    zero = torch.zeros_like(cond)
    assert torch.equal(apg(uncond, cond, 1.0, 0.0, 2.0), cond)
    assert torch.equal(apg(cond, cond, 9.0, 0.0, 2.0), cond)
    torch.testing.assert_close(apg(uncond, zero, 3.0, 0.0, 0.0), -2 * uncond)
    assert torch.equal(apg(zero, zero, 9.0, 0.0, 2.0), zero)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_keeps_dtype_and_stays_finite(dtype: torch.dtype) -> None:
    uncond, cond = (300 * torch.randn(2, 2, 4, 32, 32)).to(dtype)
    result = apg(uncond, cond, 3.0, 0.0, 15.0)
    assert result.dtype == dtype
    assert result.isfinite().all()


def step(memory: dict[Any, Any], index: int = 0) -> Step:
    """A call of an x0 model whose two predictions are always the same."""
    uncond, cond = torch.zeros(1, 2, 1, 1), torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    return Step(
        index=index,
        count=4,
        timestep=1.0,
        alpha=0.6,
        sigma=0.8,
        x=torch.zeros(1, 2, 1, 1),
        prediction_type="sample",
        evaluator={COND: cond, UNCOND: uncond}.__getitem__,
        memory=memory,
    )


def test_momentum_of_a_constant_difference() -> None:
    rule, memory = APG(2.0, eta=1.0, norm_threshold=0.0, momentum=-0.5), dict[Any, Any]()
    updates = [float(rule.predict(step(memory, i))[0, 1]) - 1 for i in range(12)]
    assert updates[:4] == pytest.approx([1, 1 / 2, 3 / 4, 5 / 8])
    assert updates[-1] == pytest.approx(2 / 3, abs=1e-3)
    assert float(rule.predict(step({}))[0, 1]) - 1 == pytest.approx(1)


def test_momentum_equals_diffusers_over_changing_predictions() -> None:
    buffer, memory = MomentumBuffer(-0.75), dict[Any, Any]()
    rule = APG(7.0, eta=0.2, norm_threshold=3.0, momentum=-0.75)
    for index in range(4):
        uncond, cond = torch.randn(2, 2, 4, 3, 3, dtype=torch.float64)
        at = Step(
            index=index,
            count=4,
            timestep=1.0,
            alpha=0.6,
            sigma=0.8,
            x=cond,
            prediction_type="sample",
            evaluator={COND: cond, UNCOND: uncond}.__getitem__,
            memory=memory,
        )
        theirs = normalized_guidance(cond, uncond, 6.0, buffer, 0.2, 3.0, True)
        torch.testing.assert_close(rule.predict(at), theirs)


def test_momentum_starts_anew_in_every_run(sd: Any) -> None:
    with guide(sd, APG(5.0)):
        first, second = tiny.sample(sd), tiny.sample(sd)
    assert torch.equal(first, second)
    with guide(sd, APG(5.0, momentum=0.0)):
        assert not torch.allclose(tiny.sample(sd), first, atol=1e-3)


def test_is_the_pipelines_guidance_when_it_keeps_everything(pipe: Any) -> None:
    native = tiny.sample(pipe, scale=5.0, batch=2)
    with guide(pipe, APG(eta=1.0, norm_threshold=0.0, momentum=0.0)):
        close(tiny.sample(pipe, scale=5.0, batch=2), native)


def test_works_in_x0_space_whatever_the_model_predicts() -> None:
    x, uncond, cond = torch.randn(3, 2, 4, 3, 3, dtype=torch.float64)
    rule = APG(7.0, norm_threshold=3.0)
    results = []
    for kind in ("epsilon", "v_prediction", "sample"):
        at = Step(
            index=0,
            count=4,
            timestep=1.0,
            alpha=0.6,
            sigma=0.8,
            x=x,
            prediction_type=kind,
            evaluator=lambda branch: at.from_x0({COND: cond, UNCOND: uncond}[branch]),  # noqa: B023
        )
        results.append(at.x0(rule.predict(at)))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


def test_scale_follows_a_schedule_and_one_skips_the_uncond_rows(sd: Any) -> None:
    with guide(sd, APG(table((1, 6, 1, 3)))) as run:
        tiny.sample(sd, steps=4)
    assert [record.evaluations for record in run.report.steps] == [1, 2, 1, 2]
    assert [record.scale for record in run.report.steps] == [1, 6, 1, 3]


def test_needs_a_scale_outside_pipelines() -> None:
    for rule in (APG(), CFG()):
        with pytest.raises(ValueError, match=f"no scale given.*{type(rule).__name__}"):
            rule.predict(step({}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": -1}, "APG: scale must be a finite number from 0 up"),
        ({"eta": -0.1}, "APG: eta must be a finite number from 0 up"),
        ({"norm_threshold": float("inf")}, "APG: norm_threshold must be a finite number from 0 up"),
        ({"momentum": -1.5}, "APG: momentum must be a finite number from -1 to 1, found -1.5"),
    ],
)
def test_impossible_settings_raise(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        APG(**settings)
    with pytest.raises(TypeError, match="APG: eta"):
        APG(eta="0")  # type: ignore[arg-type]
