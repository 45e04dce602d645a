"""Dynamic CFG: closed forms of the choice, votes of evaluators, and whole runs of pipelines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from torch import Tensor

from guidance import (
    CFG,
    COND,
    UNCOND,
    AdaptiveGuidance,
    DynamicCFG,
    Rescale,
    Rule,
    Step,
    guide,
    linear,
    parse_rule,
    piecewise,
)
from guidance.cfg import cfg
from guidance.dynamic_cfg import choose_scale
from guidance.evaluators import Agreement, Clipping, Saturation
from tests import tiny
from tests.tiny import close
from tests.tiny_families import FAMILIES

SCALES = (1.0, 2.5, 5.0, 7.5, 10.0)
Judge = Callable[[Tensor, Step, Any], Tensor]


def pair(images: int = 3) -> tuple[Tensor, Tensor]:
    """Unconditional and conditional prediction."""
    uncond, cond = torch.randn(2, images, 4, 5, 5, dtype=torch.float64)
    return uncond, cond


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def at(uncond: Tensor, cond: Tensor, index: int = 0, kind: str = "sample", **changes: Any) -> Step:
    """A call of a model with these x0 predictions, whatever it predicts."""
    step = Step(
        index=index,
        count=10,
        timestep=1.0,
        alpha=0.6,
        sigma=0.8,
        x=torch.full_like(cond, 0.3),
        prediction_type=kind,
        evaluator=lambda branch: step.from_x0({COND: cond, UNCOND: uncond}[branch]),
        **changes,
    )
    return step


def scales_of(rule: Rule, step: Step) -> list[float]:
    rule.predict(step)
    return step.notes["scale"]


def towards(target: Tensor) -> Judge:
    """Minus the squared distance to a target for each image."""
    return lambda x0, step, prompts: -dot(x0 - target, x0 - target)


def preset(scores: Tensor) -> Judge:
    """Scores ``(K, B)`` in the order of the candidates, whatever they are."""
    rows = iter(list(scores) * 10)
    return lambda x0, step, prompts: next(rows)


# The choice


def test_quadratic_score_takes_the_candidate_nearest_its_optimum() -> None:
    uncond, cond = pair(8)
    target = uncond + torch.linspace(-3, 14, 8).view(-1, 1, 1, 1).double() * (cond - uncond)
    target = target + torch.randn_like(target)
    d = cond - uncond
    optimum = dot(target - uncond, d) / dot(d, d)
    expected = [min(SCALES, key=lambda w: abs(w - best)) for best in optimum.tolist()]
    assert len(set(expected)) > 3
    guided, chosen = choose_scale(uncond, cond, SCALES, lambda x: -dot(x - target, x - target))
    assert chosen.tolist() == expected
    assert torch.equal(guided, cfg(uncond, cond, chosen.double()))
    rule = DynamicCFG(SCALES, towards(target))
    for kind in ("sample", "epsilon", "v_prediction"):
        assert scales_of(rule, at(uncond, cond, kind=kind)) == expected


def test_linear_score_takes_an_end() -> None:
    uncond, cond = pair(6)
    h = torch.randn_like(cond)
    expected = [SCALES[-1] if rise > 0 else SCALES[0] for rise in dot(cond - uncond, h).tolist()]
    assert len(set(expected)) == 2
    assert choose_scale(uncond, cond, SCALES, lambda x: dot(x, h))[1].tolist() == expected
    assert scales_of(DynamicCFG(SCALES, lambda x0, *_: dot(x0, h)), at(uncond, cond)) == expected


def test_matches_a_loop_written_from_the_equations() -> None:
    uncond, cond = pair()
    targets = torch.randn(2, *cond.shape, dtype=torch.float64) * 4
    rule = DynamicCFG(SCALES, [towards(target) for target in targets], (1.0, 0.4))
    step = at(uncond, cond)
    guided = rule.predict(step)
    for b in range(3):
        d = cond[b] - uncond[b]
        totals = [0.0] * len(SCALES)
        for target, weight in zip(targets, (1.0, 0.4), strict=True):
            raw = [-float((uncond[b] + w * d - target[b]).square().sum()) for w in SCALES]
            for k, score in enumerate(raw):
                totals[k] += weight * (score - min(raw)) / (max(raw) - min(raw))
        best = totals.index(max(totals))
        assert step.notes["scale"][b] == SCALES[best]
        assert step.notes["scores"][b] == pytest.approx(totals, rel=1e-5)
        torch.testing.assert_close(guided[b], uncond[b] + SCALES[best] * d)


@pytest.mark.parametrize(("default", "expected"), [(None, 1.0), (4.9, 5.0), (3.75, 2.5), (99, 10)])
def test_ties_go_to_the_candidate_nearest_the_default(default: Any, expected: float) -> None:
    uncond, cond = pair()
    guided, chosen = choose_scale(uncond, cond, SCALES, lambda x: torch.ones(3), default)
    assert chosen.tolist() == [expected] * 3
    assert torch.equal(guided, cfg(uncond, cond, expected))
    step = at(uncond, cond, guidance_scale=default)
    assert scales_of(DynamicCFG(SCALES, lambda x0, *_: torch.ones(3)), step) == [expected] * 3


def test_equal_predictions_stay_as_they_are() -> None:
    _, cond = pair()
    guided, chosen = choose_scale(cond, cond, SCALES, lambda x: dot(x, x), 5.0)
    assert torch.equal(guided, cond)
    assert chosen.tolist() == [5.0] * 3


def test_a_default_is_a_candidate_and_the_pipelines_scale_is_not() -> None:
    rule = DynamicCFG((7.5, 1, 2.5, 1), Saturation(), default=4)
    assert rule.scales == (1.0, 2.5, 4.0, 7.5)
    assert DynamicCFG((9, 8, 1), Saturation()).scales == (1.0, 8.0, 9.0)
    assert rule == DynamicCFG((1, 2.5, 4.0, 7.5), (Saturation(),), default=4)
    constant = DynamicCFG((1, 2.5, 7.5), lambda x0, *_: torch.zeros(len(x0)))
    assert scales_of(constant, at(*pair(1), guidance_scale=4.0)) == [2.5]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_lose(bad: float) -> None:
    uncond, cond = pair(3)
    scores = torch.tensor([[1, bad, bad], [3.0, 1.0, bad], [bad, 2.0, bad]])
    rows = iter(scores)
    chosen = choose_scale(uncond, cond, (1, 4, 9), lambda x: next(rows), 9)[1]
    assert chosen.tolist() == [4, 9, 9]
    for how in ("minmax", "zscore", "rank", "none"):
        step = at(uncond, cond)
        rule = DynamicCFG((1, 4, 9), preset(scores), default=9, normalisation=how)
        assert scales_of(rule, step) == [4, 9, 9]
        assert step.notes["unjudged_images"] == 1
        assert [image.count(None) for image in step.notes["scores"]] == [1, 1, 3]
        json.dumps(step.notes["scores"], allow_nan=False)
    fine = at(uncond, cond)
    DynamicCFG((1, 4, 9), Saturation()).predict(fine)
    assert "unjudged_images" not in fine.notes


def test_low_precision_keeps_its_dtype_and_the_bits_of_the_scale() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        uncond, cond = (each.to(dtype) for each in pair())
        guided, chosen = choose_scale(uncond, cond, (1.1, 7.3), lambda x: dot(x.float(), x.float()))
        assert guided.dtype == dtype
        for b, scale in enumerate(chosen.tolist()):
            assert torch.equal(guided[b], cfg(uncond, cond, round(scale, 1))[b])


# Votes


@pytest.mark.parametrize("how", ["minmax", "zscore", "rank", "none"])
def test_one_judge_decides_alike_under_every_normalisation(how: str) -> None:
    scores = torch.randn(5, 40)
    expected = [SCALES[k] for k in scores.argmax(0).tolist()]
    rule = DynamicCFG(SCALES, preset(scores), normalisation=how)
    assert scales_of(rule, at(*pair(40))) == expected


@pytest.mark.parametrize("how", ["minmax", "zscore", "rank"])
def test_units_of_a_judge_do_not_matter(how: str) -> None:
    one, other, predictions = torch.randn(5, 40), torch.randn(5, 40), pair(40)

    def chosen(first: Tensor, how: str) -> list[float]:
        rule = DynamicCFG(SCALES, (preset(first), preset(other)), normalisation=how)
        return scales_of(rule, at(*predictions))

    assert chosen(one, how) == chosen(100 * one - 7, how) == chosen(1e-4 * one, how)
    assert chosen(one, how) != chosen(-one, how)
    assert chosen(one, "none") != chosen(100 * one - 7, "none")


def test_weights_decide_and_nobody_is_asked_at_weight_zero() -> None:
    uncond, cond = pair()
    low, high = torch.tensor([[2.0], [1.0]]), torch.tensor([[1.0], [2.0]])

    def chosen(weights: Any, fraction: float = 0.0) -> list[float]:
        judges = (preset(low.expand(2, 3)), preset(high.expand(2, 3)))
        step = at(uncond, cond, int(10 * fraction))
        return scales_of(DynamicCFG((1, 9), judges, weights), step)

    assert chosen((2, 1)) == [1.0] * 3
    assert chosen((1, 2)) == [9.0] * 3
    moving = (linear(0, 1), lambda fraction: 1 - fraction)
    assert chosen(moving, 0.2) == [9.0] * 3
    assert chosen(moving, 0.8) == [1.0] * 3

    def never(x0: Tensor, step: Step, prompts: Any) -> Tensor:
        raise AssertionError

    assert (
        scales_of(DynamicCFG((1, 9), (never, preset(high.expand(2, 3))), (0, 1)), at(uncond, cond))
        == [9.0] * 3
    )
    silent = at(uncond, cond, guidance_scale=7.0)
    assert scales_of(DynamicCFG((1, 9), never, 0), silent) == [9.0] * 3
    assert "scores" not in silent.notes
    assert scales_of(DynamicCFG((9,), never), at(uncond, cond)) == [9.0] * 3


def test_adaptive_weights_follow_the_relative_change_of_a_score() -> None:
    steady, moving = torch.tensor([[10.0], [11.0]]), torch.tensor([[4.0], [2.0]])
    last = iter([moving, moving * -0.5])
    memory: dict[Any, Any] = {}

    def chosen(now: Tensor, index: int) -> tuple[list[float], list[float]]:
        judges = (preset(steady * (1 + 0.02 * index)), preset(now))
        step = at(*pair(1), index, memory=memory)
        return scales_of(DynamicCFG((1, 9), judges, (1.5, 1), adaptive=True), step), step.notes[
            "scores"
        ][0]

    assert chosen(next(last), 0) == ([9.0], [1.0, 1.5])
    scale, scores = chosen(next(last), 1)
    assert scores == pytest.approx([0.0, 0.02 * 1.5 + 1.5])
    assert scale == [9.0]
    plain = at(*pair(1), 1)
    DynamicCFG((1, 9), (preset(steady), preset(moving)), (1.5, 1)).predict(plain)
    assert plain.notes["scores"] == [[1.0, 1.5]]


def test_adaptive_weights_compare_with_the_call_before_over_finite_scores() -> None:
    memory: dict[Any, Any] = {}
    for index, row in enumerate(([1.0, 3.0, float("nan")], [2.0, 6.0, 4.0], [4.0, 5.0, 6.0])):
        step = at(*pair(1), index, memory=memory)
        DynamicCFG((1, 4, 9), preset(torch.tensor(row)[:, None]), adaptive=True).predict(step)
        last = step.notes["scores"][0]
        if index == 1:
            assert last == pytest.approx([0.0, 1.0, 0.5])
    assert last == pytest.approx([0.0, 0.125, 0.25])


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16])
@pytest.mark.parametrize("how", ["minmax", "zscore", "rank", "none"])
def test_scores_may_be_of_any_kind(how: str, dtype: torch.dtype) -> None:
    scores = torch.tensor([[100, 300], [300, 100], [200, 200]])
    step = at(*pair(2))
    rule = DynamicCFG((1, 4, 9), preset(scores.to(dtype)), 1000, normalisation=how)
    assert scales_of(rule, step) == [4.0, 1.0]
    assert step.notes["scores"][0][2] is not None


def test_adaptive_weights_survive_zeros_and_nans() -> None:
    memory: dict[Any, Any] = {}
    nan = float("nan")
    columns = ((0, 0), (0, 1), (nan, 1), (1, nan))
    for index in range(2):
        scores = torch.tensor([[c[index] for c in columns], [2.0 * c[index] for c in columns]])
        step = at(*pair(4), index, memory=memory)
        rule = DynamicCFG((1, 9), preset(scores), default=1, adaptive=True)
        chosen = scales_of(rule, step)
    assert chosen == [1.0, 9.0, 1.0, 1.0]
    assert step.notes["scores"] == [[0, 0], [0, 1], [0, 0], [None, None]]


def test_a_judge_that_returns_another_shape_is_refused_in_one_line() -> None:
    uncond, cond = pair()
    message = r"must return a tensor with one score per image, shape \(3,\), found"
    with pytest.raises(ValueError, match=rf"^score {message} shape \(3, 1\)$"):
        choose_scale(uncond, cond, SCALES, lambda x: dot(x, x)[:, None])

    def mean(x0: Tensor, step: Step, prompts: Any) -> Tensor:
        return x0.mean()

    with pytest.raises(ValueError, match=rf"^mean {message} shape \(\)$"):
        DynamicCFG(SCALES, mean).predict(at(uncond, cond))
    with pytest.raises(ValueError, match=f"^<lambda> {message} <class 'list'>$"):
        DynamicCFG(SCALES, lambda x0, *_: [1, 2, 3]).predict(at(uncond, cond))


def test_judges_see_x0_prompts_and_no_gradients() -> None:
    uncond, cond = pair(2)
    seen: list[Any] = []

    class Judge:
        def score(self, x0: Tensor, step: Step, prompts: Any) -> Tensor:
            seen.append((x0, prompts, torch.is_grad_enabled(), step.index))
            return dot(x0, x0)

    with torch.enable_grad():
        DynamicCFG((1, 4), Judge()).predict(
            at(uncond.float(), cond.float(), 3, "epsilon", prompts=("a", "b"))
        )
    assert [entry[1:] for entry in seen] == [(("a", "b"), False, 3)] * 2
    torch.testing.assert_close(seen[0][0], cond.float())
    torch.testing.assert_close(seen[1][0], cfg(uncond, cond, 4.0).float())


def test_choices_hold_for_several_calls() -> None:
    memory: dict[Any, Any] = {}
    best = torch.tensor([0, 4, 2, 1, 3])
    votes: list[Tensor] = []
    rule = DynamicCFG(SCALES, lambda x0, step, _: votes.pop(0), every=2)
    chosen = []
    for index in range(1, 6):
        votes[:] = list(torch.eye(5)[best[index - 1]].unsqueeze(1))
        chosen += scales_of(rule, at(*pair(1), index, memory=memory))
    assert chosen == [1.0, 10.0, 10.0, 2.5, 2.5]


def test_agreement_is_with_the_choice_before() -> None:
    uncond, cond = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    memory: dict[Any, Any] = {}
    target = torch.tensor([7.0, 2.0]).view(2, 1, 1, 1)
    rule = DynamicCFG(
        (2, 4, 7), (lambda *a: towards(target)(*a), Agreement()), (piecewise(((0, 1), (0.1, 0))), 1)
    )
    assert scales_of(rule, at(uncond, cond, memory=memory)) == [7.0, 2.0]
    later = at(uncond, 2 * cond, 1, memory=memory)
    assert scales_of(rule, later) == [4.0, 2.0]


# The closed form of a toy


def test_two_gaussians_come_nearer_to_the_mode_than_without_guidance() -> None:
    """x0 is N(0, 4) without and N(mu, 1) with a class; 25 DDIM steps on exact predictions."""
    generator = torch.Generator().manual_seed(0)
    mu = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).double()
    noise = torch.randn(256, 2, 1, 1, generator=generator, dtype=torch.float64)
    angles = torch.linspace(1.55, 0.0, 26).double()

    def mean(x: Tensor, a: float, s: float, centre: Any, v: float) -> Tensor:
        return centre + a * v / (a * a * v + s * s) * (x - a * centre)

    def end(rule: Rule) -> tuple[float, list[list[float]]]:
        x, memory, scales = noise, dict[Any, Any](), []
        for index in range(25):
            a, s = float(angles[index].cos()), float(angles[index].sin())
            both = {COND: mean(x, a, s, mu, 1.0), UNCOND: mean(x, a, s, 0.0, 4.0)}
            step = Step(index, 25, 1.0, a, s, x, "sample", both.__getitem__, memory=memory)
            x0 = rule.predict(step)
            eps = (x - a * x0) / s
            x = angles[index + 1].cos() * x0 + angles[index + 1].sin() * eps
            scales.append(step.notes["scale"])
        return float(dot(x - mu, x - mu).mean()), scales

    plain, _ = end(DynamicCFG((1.0,), Saturation()))
    near, scales = end(DynamicCFG((1, 2, 4, 8, 15), towards(mu)))
    assert plain == pytest.approx(2.0, abs=0.3)
    statics = [end(DynamicCFG((scale,), Saturation()))[0] for scale in (2, 4, 8, 15)]
    assert near < 0.25 * plain
    assert near < 0.75 * min(statics)
    assert len(set(scales[12])) > 2


# Pipelines


def test_a_single_candidate_is_static_guidance_to_the_bit(pipe: Any) -> None:
    for scale in (1.0, 3.3):
        with guide(pipe, CFG(scale)) as static:
            expected = tiny.sample(pipe, batch=2)
        with guide(pipe, DynamicCFG((scale,), Saturation())) as run:
            assert torch.equal(tiny.sample(pipe, batch=2), expected)
        assert run.report.nfe == static.report.nfe
        assert run.report.steps[0].scale == [scale] * 2


@pytest.mark.parametrize(
    "name", [name for name, family in FAMILIES.items() if family.scale not in (None, "guider")]
)
def test_every_family_equals_static_guidance_and_batches_alike(name: str) -> None:
    family = FAMILIES[name]
    pipe = family()
    with guide(pipe, CFG(3.3)):
        static = family.call(pipe, batch=2)
    constant = DynamicCFG((1, 3.3, 6), lambda x0, *_: torch.zeros(len(x0)), default=3.3)
    with guide(pipe, constant):
        assert torch.equal(family.call(pipe, batch=2), static)
    rule = DynamicCFG((1, 3, 6), (Saturation(0.0), Clipping(0.1)), (1, 0.2))
    with guide(pipe, rule) as run:
        joint = family.call(pipe, batch=2)
    assert joint.isfinite().all()
    with guide(pipe, rule, batching="sequential") as other:
        close(family.call(pipe, batch=2), joint)
    assert other.report.nfe == run.report.nfe == 2 * len(run.report.steps)


def test_every_image_chooses_alone_and_the_report_tells(sd: Any, tmp_path: Path) -> None:
    def hue(x0: Tensor, step: Step, prompts: Any) -> Tensor:
        signs = torch.tensor([1.0 if prompt == tiny.PROMPT else -1.0 for prompt in prompts])
        return signs * dot(x0, x0)

    rule = DynamicCFG((2, 5, 9), hue)
    with guide(sd, rule) as run:
        batch = tiny.sample(sd, batch=2)
    table = [record.scale for record in run.report.steps]
    assert any(first != second for first, second in table)
    with guide(sd, rule) as alone:
        close(tiny.sample(sd)[0], batch[0])
    assert [record.scale for record in alone.report.steps] == [row[:1] for row in table]
    assert run.report.nfe == 8
    data = json.loads(json.dumps(run.report.to_dict(), allow_nan=False))
    assert [step["scale"] for step in data["steps"]] == table
    assert len(data["steps"][0]["extras"]["scores"][1]) == 3
    run.report.to_csv(tmp_path / "report.csv")
    assert str(table[0]) in (tmp_path / "report.csv").read_text()


def test_window_costs_nothing_outside_and_combines(sd: Any) -> None:
    judge = Saturation(0.0)
    rule = DynamicCFG((2, 6), judge).between(0.25, 0.75) + Rescale(0.7)
    with guide(sd, rule) as run:
        tiny.sample(sd)
    assert [record.evaluations for record in run.report.steps] == [1, 2, 2, 1]
    assert [record.scale is None for record in run.report.steps] == [True, False, False, True]
    with guide(sd, CFG(2.0) + Rescale(0.7)):
        expected = tiny.sample(sd)
    with guide(
        sd, DynamicCFG((2, 6), lambda x0, *_: torch.zeros(len(x0)), default=2) + Rescale(0.7)
    ):
        assert torch.equal(tiny.sample(sd), expected)
    with pytest.raises(ValueError, match="at most one rule may own the uncond direction"):
        DynamicCFG((2, 6), judge) + CFG(4.0)


def test_converged_images_have_no_scale(sd: Any) -> None:
    rule = AdaptiveGuidance(
        DynamicCFG((4, 5), lambda x0, *_: torch.zeros(len(x0)), default=5), 0.99993
    )
    with guide(sd, AdaptiveGuidance(5.0, 0.99993)) as static:
        expected = tiny.sample(sd, batch=2, steps=6)
    with guide(sd, rule) as run:
        assert torch.equal(tiny.sample(sd, batch=2, steps=6), expected)
    assert run.report.nfe == static.report.nfe == 8.5
    assert [record.scale for record in run.report.steps][1:4] == [[5, 5], [None, 5], None]


def test_the_noise_of_the_sampler_is_left_alone(sd: Any) -> None:
    sd.scheduler = EulerAncestralDiscreteScheduler.from_config(sd.scheduler.config)
    with guide(sd, CFG(4.0)):
        expected = tiny.sample(sd)
    with guide(sd, DynamicCFG((2, 4, 9), Saturation(), 0, default=4)):
        assert torch.equal(tiny.sample(sd), expected)


def test_runs_start_anew(sd: Any) -> None:
    with guide(sd, DynamicCFG((2, 4, 9), (Agreement(), Saturation()), every=3, adaptive=True)):
        assert torch.equal(tiny.sample(sd), tiny.sample(sd))


# Settings


@pytest.mark.parametrize(
    "rule",
    [
        DynamicCFG((1, 4.5), Saturation()),
        DynamicCFG((4,), [Agreement(), Clipping(0.5)], (1, linear(0, 2)), 3, 2, "rank", True),
        DynamicCFG((1, 4), Agreement(), linear(0, 1)).between(0.1, 0.9) + Rescale(0.7),
        AdaptiveGuidance(DynamicCFG((1, 4), Saturation(0.9))),
    ],
)
def test_repr_json_and_text_rebuild_it(rule: Rule) -> None:
    classes = (AdaptiveGuidance, Agreement, Clipping, DynamicCFG, Rescale, Saturation, linear)
    assert eval(repr(rule), {cls.__name__: cls for cls in classes}) == rule
    assert Rule.from_config(json.loads(json.dumps(rule.to_config()))) == rule
    assert parse_rule(repr(rule)) == rule


def test_text_may_leave_out_the_parentheses_of_a_judge() -> None:
    short = "DynamicCFG((1, 4), (saturation, Agreement), (1, 0.5))"
    assert parse_rule(short) == DynamicCFG((1, 4), (Saturation(), Agreement()), (1, 0.5))
    assert parse_rule("DynamicCFG((1, 4), saturation)") == DynamicCFG((1, 4), Saturation())
    with pytest.raises(ValueError, match=r"did you mean Agreement.*evaluators: Agreement,"):
        parse_rule("DynamicCFG((1, 4), Agrement())")
    with pytest.raises(ValueError, match=r"expected a rule such as CFG.6., found Agreement"):
        parse_rule("Agreement()")


def test_functions_have_no_json_form() -> None:
    with pytest.raises(
        ValueError, match=r"DynamicCFG: evaluators has no JSON form.*a function has none"
    ):
        DynamicCFG((1, 4), lambda x0, *_: x0).to_config()
    with pytest.raises(ValueError, match=r"config: part must be one of Agreement, .*found 'Taste'"):
        Rule.from_config({"rule": "DynamicCFG", "scales": [1], "evaluators": [{"part": "Taste"}]})


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"scales": ()}, TypeError, "scales must be candidates such as .1, 4, 7.5., found"),
        ({"scales": 4.0}, TypeError, "scales must be candidates such as .1, 4, 7.5., found 4.0"),
        ({"scales": "14"}, TypeError, "scales must be candidates"),
        ({"scales": (1, -4)}, ValueError, "scales must be a finite number from 0 up, found -4"),
        ({"scales": (1, "4")}, TypeError, "scales must be a finite number from 0 up, found '4'"),
        ({"evaluators": ()}, TypeError, "evaluators must be objects with score.*found None"),
        ({"evaluators": 3}, TypeError, "evaluators must be objects with score.*found 3"),
        ({"evaluators": Agreement}, TypeError, "evaluators must be .*found <class.*Agreement"),
        ({"weights": (1, 2)}, ValueError, "one for all or one for each of 1, found 2"),
        ({"weights": -1}, ValueError, "weights must be a finite number from 0 up, found -1"),
        ({"weights": (-1,)}, ValueError, "weights must be a finite number from 0 up, found -1"),
        ({"default": -1}, ValueError, "default must be a finite number from 0 up, found -1"),
        ({"every": 0}, ValueError, "every must be a finite number from 1 up, found 0"),
        ({"every": 1.5}, ValueError, "every must be whole, found 1.5"),
        ({"normalisation": "max"}, ValueError, "normalisation must be one of minmax, zscore, rank"),
    ],
)
def test_impossible_settings_raise(
    settings: dict[str, Any], kind: type[Exception], message: str
) -> None:
    usual: dict[str, Any] = {"scales": (1, 4), "evaluators": Saturation()}
    with pytest.raises(kind, match=message) as caught:
        DynamicCFG(**usual | settings)
    assert "\n" not in str(caught.value)
