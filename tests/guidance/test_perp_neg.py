"""Perp-Neg: the exact consequences of its formula, a loop from the equations, pipelines."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from guidance import CFG, COND, UNCOND, Rescale, Rule, Step, guide, linear, prompt, table
from guidance.cfg import cfg
from guidance.core.prediction import wide
from guidance.core.spec import parse_rule
from guidance.perp_neg import PerpNeg, perp_neg
from tests import tiny
from tests.tiny import close

SHAPES = [(3, 6, 4), (3, 4, 5, 5), (3, 4, 2, 5, 5)]
WEIGHTS = torch.tensor([0.5, 2.0], dtype=torch.float64)


def predictions(*shape: int, count: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """uncond, cond ``(3, ...)`` and negatives ``(count, 3, ...)``."""
    uncond, cond, *rest = torch.randn(2 + count, *(shape or (3, 4, 5, 5)), dtype=torch.float64)
    return uncond, cond, torch.stack(rest)


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).flatten(1).sum(1)


def test_worked_example() -> None:
    u, p, n = torch.tensor([[[0.0, 0.0]], [[2.0, 0.0]], [[3.0, 4.0]]])
    for weights in (torch.tensor([0.5]), [0.5], [[0.5]]):
        result = perp_neg(u, p, n[None], weights, 2.0)
        assert torch.equal(result, torch.tensor([[4.0, -4.0]]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_component_along_the_positive_is_that_of_plain_guidance(
    shape: tuple[int, ...], scale: float
) -> None:
    u, p, n = predictions(*shape)
    update = perp_neg(u, p, n, WEIGHTS, scale) - u
    dp = p - u
    torch.testing.assert_close(dot(update, dp), scale * dot(dp, dp))
    added = update - scale * dp
    torch.testing.assert_close(dot(update, update), scale**2 * dot(dp, dp) + dot(added, added))
    assert scale == 0 or (dot(added, added) > 1).all()


def test_matches_a_loop_written_from_the_equations() -> None:
    u, p, n = predictions()
    weights = torch.tensor([[0.5, 1.0, 0.0], [2.0, 0.0, 3.0]], dtype=torch.float64)
    scale = torch.tensor([1.0, 4.0, 7.5], dtype=torch.float64)
    result = perp_neg(u, p, n, weights, scale)
    for b in range(3):
        dp = p[b] - u[b]
        pull = torch.zeros_like(dp)
        for i in range(2):
            dn = n[i, b] - u[b]
            pull += weights[i, b] * (dn - (dn * dp).sum() / (dp * dp).sum() * dp)
        torch.testing.assert_close(result[b], u[b] + scale[b] * (dp - pull))


def test_is_plain_guidance_where_negatives_have_nothing_to_say() -> None:
    u, p, n = predictions()
    plain = cfg(u, p, 6.0)
    assert torch.equal(perp_neg(u, p, n, 0 * WEIGHTS, 6.0), plain)
    for silent in (p, u, u - 3 * (p - u)):
        torch.testing.assert_close(perp_neg(u, p, silent[None], WEIGHTS[1:], 6.0), plain)
    assert torch.equal(perp_neg(u, p, n, WEIGHTS, 0.0), u)


def test_part_of_a_negative_along_the_positive_changes_nothing() -> None:
    u, p, n = predictions()
    torch.testing.assert_close(
        perp_neg(u, p, n + 2.5 * (p - u), WEIGHTS, 6.0), perp_neg(u, p, n, WEIGHTS, 6.0)
    )


@pytest.mark.parametrize("factor", [-3.0, 1e-6, 1e4])
def test_common_factor_of_all_differences_is_a_factor_of_the_update(factor: float) -> None:
    u, p, n = (item.float() for item in predictions())
    update = perp_neg(u, p, n, WEIGHTS, 6.0) - u
    zero = torch.zeros_like(u)
    scaled = perp_neg(zero, factor * (p - u), factor * (n - u), WEIGHTS, 6.0)
    torch.testing.assert_close(scaled / factor, update, rtol=1e-4, atol=1e-4)


def test_order_of_values_within_a_sample_does_not_matter() -> None:
    u, p, n = predictions(3, 100)
    order = torch.randperm(100)
    permuted = perp_neg(u[:, order], p[:, order], n[..., order], WEIGHTS, 6.0)
    torch.testing.assert_close(permuted, perp_neg(u, p, n, WEIGHTS, 6.0)[:, order])


def test_batch_is_its_images_one_by_one() -> None:
    u, p, n = predictions()
    together = perp_neg(u, p, n, WEIGHTS, 6.0)
    for b in range(3):
        one = slice(b, b + 1)
        torch.testing.assert_close(perp_neg(u[one], p[one], n[:, one], WEIGHTS, 6.0), together[one])


def test_without_a_positive_direction_the_negative_acts_whole() -> None:
    u, _, n = predictions()
    whole = u - 6.0 * (n - u)[0]
    assert torch.equal(perp_neg(u, u, n[:1], torch.tensor([1.0]), 6.0), whole)
    nearly = u + 1e-9 * torch.randn_like(u)
    torch.testing.assert_close(perp_neg(u, nearly, n[:1], torch.tensor([1.0]), 6.0), whole)
    assert torch.equal(perp_neg(u, u, u[None], torch.tensor([1.0]), 6.0), u)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 4, 128, 128), (1, 4096, 64)])
def test_low_precision_is_finite_and_orthogonal(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    u, p, n = (item.to(dtype) for item in predictions(*shape, count=1))
    result = perp_neg(u, p, n, torch.tensor([1.0]), 1.0)
    assert result.dtype == dtype
    assert result.isfinite().all()
    dp, update = wide(p) - wide(u), wide(result) - wide(p)
    cosine = dot(update, dp) / (dot(update, update) * dot(dp, dp)).sqrt()
    assert cosine.abs().max() < 1e-3


def test_gaussian_data_moves_to_the_mean_of_the_formula() -> None:
    """Exact noise predictions of N(mu, v I) at one level combine into that of N(mu*, v I)."""
    mean, (u, p, *n) = torch.randn(4, 1, 12, dtype=torch.float64), range(4)
    x, a, s, v = torch.randn(1, 12, dtype=torch.float64), 0.6, 0.8, 0.3

    def eps(mu: torch.Tensor) -> torch.Tensor:
        return s * (x - a * mu) / (a**2 * v + s**2)

    dp = mean[p] - mean[u]
    target = mean[u] + 5.0 * dp
    for i, weight in zip(n, (0.5, 2.0), strict=True):
        dn = mean[i] - mean[u]
        target -= 5.0 * weight * (dn - (dn * dp).sum() / (dp * dp).sum() * dp)
    guided = perp_neg(eps(mean[u]), eps(mean[p]), eps(torch.stack([*mean[n]])), WEIGHTS, 5.0)
    torch.testing.assert_close(guided, eps(target))


def test_is_the_same_update_in_every_space() -> None:
    x, u, p, *n = torch.randn(5, 2, 4, 3, 3, dtype=torch.float64)
    x0 = {COND: p, UNCOND: u, prompt("a"): n[0], prompt("b"): n[1]}
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
            evaluator=lambda branch: at.from_x0(x0[branch]),  # noqa: B023
        )
        results.append(at.x0(PerpNeg(("a", "b"), (0.5, 2), 6.0).predict(at)))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


def test_costs_one_evaluation_for_each_negative_with_a_weight(sd: Any) -> None:
    for rule, nfe in (
        (PerpNeg(["blue", "old"], scale=4.0), 4),
        (PerpNeg(["blue", "old"], scale=1.0), 4),
        (PerpNeg(["blue", "old"], (0, 2), 4.0), 3),
        (PerpNeg(["blue", "old"], ((0, 0), (1, 0)), 4.0), 3),
        (PerpNeg(["blue", "old"], 0, 4.0), 2),
        (PerpNeg(["blue", "old"], 0, 1.0), 1),
        (PerpNeg(["blue", "old"], scale=0.0), 2),
        (PerpNeg(["blue", "old"], scale=table((0, 4))), 3),
    ):
        with guide(sd, rule) as run:
            tiny.sample(sd, batch=2, steps=2)
        assert run.report.nfe == 2 * nfe, rule


def test_all_predictions_of_a_step_are_made_together(sd: Any) -> None:
    rows = tiny.Rows(sd)
    with guide(sd, PerpNeg(["blue", "old"], scale=4.0)):
        tiny.sample(sd, batch=2, steps=2)
    rows.remove()
    assert rows.seen == [8, 8]


def test_negatives_without_weight_are_the_pipelines_own_guidance(pipe: Any) -> None:
    negative: Any = 7 if pipe.__class__.__name__ == "DiTPipeline" else "blue"
    native = tiny.sample(pipe, scale=5.0, batch=2)
    with guide(pipe, PerpNeg((negative,), 0)):
        assert torch.equal(tiny.sample(pipe, scale=5.0, batch=2), native)
    with guide(pipe, PerpNeg((negative,), 2.0)):
        assert not torch.allclose(tiny.sample(pipe, scale=5.0, batch=2), native, atol=1e-3)


def test_negative_that_is_the_prompt_or_the_empty_one_does_nothing(sd: Any) -> None:
    native = tiny.sample(sd, negative_prompt=[""])
    for text in (tiny.PROMPT, ""):
        with guide(sd, PerpNeg((text,), 2.0)):
            close(tiny.sample(sd, negative_prompt=[""]), native)


def test_each_image_has_its_own_negatives_and_weights(sd: Any) -> None:
    rule = PerpNeg((("blue", "old"), "wet"), (1.0, (2.0, 0.0)), 4.0)
    with guide(sd, rule):
        first, second = tiny.sample(sd, batch=2)
    with guide(sd, PerpNeg(("blue", "wet"), (1.0, 2.0), 4.0)):
        close(tiny.sample(sd, batch=2)[0], first)
    with guide(sd, PerpNeg(("old",), 1.0, 4.0)):
        close(tiny.sample(sd, batch=2)[1], second)


def test_images_of_one_prompt_share_its_weight(sd: Any) -> None:
    call: dict[str, Any] = {"num_images_per_prompt": 2, "generator": None, "batch": 2}
    latents = torch.randn(4, 4, 8, 8)
    with guide(sd, PerpNeg(("blue",), ((2.0, 0.0),), 4.0)):
        together = tiny.sample(sd, **call, latents=latents)
    native = tiny.sample(sd, **call, latents=latents, scale=4.0)
    close(together[2:], native[2:])
    assert not torch.allclose(together[:2], native[:2], atol=1e-3)


def test_wrong_number_of_prompts_in_a_run_raises(sd: Any) -> None:
    with (
        guide(sd, PerpNeg(("blue",), ((2.0, 0.0, 1.0),))),
        pytest.raises(ValueError, match=r"weights must have one item.*found 3 for 2"),
    ):
        tiny.sample(sd, batch=2)
    with guide(sd, PerpNeg((("blue", "old", "wet"),))), pytest.raises(ValueError, match="found 3"):
        tiny.sample(sd, batch=2)


def test_scale_follows_a_schedule_and_composes_with_corrections(sd: Any) -> None:
    with guide(sd, PerpNeg(("blue",), scale=linear(2, 6)) + Rescale(0.7)) as run:
        tiny.sample(sd, steps=4)
    assert [record.scale for record in run.report.steps] == [2, 3, 4, 5]
    with pytest.raises(ValueError, match="at most one rule may own the uncond direction"):
        PerpNeg(("blue",)) + CFG(4.0)


@pytest.mark.parametrize(
    "rule",
    [
        PerpNeg("blue"),
        PerpNeg(["blue", "old"], 1.5, 4.0),
        PerpNeg([("blue", "old"), "wet"], [1, (2, 0.5)], linear(2, 6)),
        PerpNeg((3, (4, 5)), (0, 1)),
    ],
)
def test_repr_json_and_text_rebuild_it(rule: Rule) -> None:
    assert eval(repr(rule), {"PerpNeg": PerpNeg, "linear": linear}) == rule
    assert Rule.from_config(json.loads(json.dumps(rule.to_config()))) == rule
    assert parse_rule(repr(rule)) == rule
    assert hash(rule) == hash(parse_rule(repr(rule)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (((),), "negatives must hold 1 to 100 texts, found 0"),
        ((["n"] * 200,), "negatives must hold 1 to 100 texts, found 200"),
        ((["a", ()],), "negatives must hold 1 to 100 texts, found 2"),
        ((["a"], -1), "weights must be a finite number from 0 up, found -1"),
        ((["a"], [float("nan")]), "weights must be a finite number from 0 up, found nan"),
        ((["a"], [[float("inf")]]), "weights must be a finite number from 0 up, found inf"),
        ((["a", "b"], [1]), "weights must be one number, or one for each of the 2 negatives"),
        ((["a", "b"], [1, ()]), "weights must be one number, or one for each of the 2 negatives"),
        ((["a", ("b", "c")], [1, (1, 2, 3)]), "found tuples of 2 and 3 items"),
        ((["a"], 1.0, -2), "PerpNeg: scale must be a finite number from 0 up"),
    ],
)
def test_impossible_settings_raise_one_line(settings: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        PerpNeg(*settings)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("negatives", [[None], [1.5], [-1], [True], [["a", None]], None])
def test_negatives_of_another_kind_raise(negatives: Any) -> None:
    with pytest.raises(TypeError, match="PerpNeg: negatives must be texts or class labels"):
        PerpNeg(negatives)
    with pytest.raises(TypeError, match="PerpNeg: weights"):
        PerpNeg("a", "much")  # type: ignore[arg-type]
