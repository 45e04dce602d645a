"""Adaptive Guidance: the cosine, the policy on scripted cosines, spaces, and pipelines."""

from __future__ import annotations

import json
from math import sqrt
from typing import Any

import pytest
import torch

from guidance import (
    APG,
    CFG,
    COND,
    UNCOND,
    Rescale,
    Rule,
    Step,
    guide,
    limited,
    linear,
    table,
)
from guidance.adaptive import AdaptiveGuidance, cosine
from guidance.cfg import cfg
from guidance.core.spec import parse_rule
from guidance.perp_neg import PerpNeg
from tests import tiny, tiny_families
from tests.tiny import close

SHAPES = [(3, 6, 4), (3, 4, 5, 5), (3, 4, 2, 5, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_cosine_is_that_of_the_flattened_samples(shape: tuple[int, ...]) -> None:
    a, b = torch.randn(2, *shape, dtype=torch.float64)
    expected = [torch.cosine_similarity(a[i].flatten(), b[i].flatten(), 0) for i in range(3)]
    torch.testing.assert_close(cosine(a, b), torch.stack(expected))
    torch.testing.assert_close(cosine(1e-3 * a, 1e5 * b), cosine(a, b))
    torch.testing.assert_close(cosine(a, -a), -torch.ones(3, dtype=torch.float64))


def test_cosine_of_degenerate_predictions() -> None:
    a = torch.randn(3, 4, 2)
    zero, broken = torch.zeros_like(a), a.clone()
    broken[1, 0, 0], broken[2, 0, 0] = float("nan"), float("inf")
    assert cosine(a, zero).tolist() == cosine(zero, zero).tolist() == [1, 1, 1]
    assert cosine(a, broken)[0] == pytest.approx(1)
    assert cosine(a, broken)[1:].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cosine_of_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    a = torch.randn(1, 4, 128, 128).to(dtype)
    b = (a + 0.02 * torch.randn_like(a)).to(dtype)
    result = cosine(a, b)
    assert result.dtype == torch.float32
    assert float(result) == pytest.approx(float(cosine(a.double(), b.double())), abs=1e-6)


def pair(gammas: list[float]) -> dict[Any, torch.Tensor]:
    """Two predictions at these cosines, one sample each."""
    cond = torch.tensor([[1.0, 0.0]] * len(gammas), dtype=torch.float64)
    uncond = torch.tensor([[g, sqrt(1 - g * g)] for g in gammas], dtype=torch.float64)
    return {COND: cond, UNCOND: 3 * uncond}


class Script:
    """Calls a rule step by step on predictions with given cosines, as the engine does."""

    def __init__(self, rule: Rule, times: list[float] | None = None) -> None:
        self.rule, self.times, self.memory = rule, times, dict[Any, Any]()
        self.asked: list[list[bool]] = []
        self.results: list[torch.Tensor] = []
        self.notes: list[dict[str, Any]] = []

    def __call__(self, *cosines: list[float]) -> Script:
        for index, gammas in enumerate(cosines):
            predictions = pair(gammas)
            step = Step(
                index=index,
                count=len(cosines),
                timestep=self.times[index] if self.times else 1000.0 - index,
                alpha=0.6,
                sigma=0.8,
                x=predictions[COND],
                prediction_type="epsilon",
                evaluator=lambda branch, known=predictions: self.evaluate(branch, known),  # type: ignore[misc]
                memory=self.memory,
            )
            live = [False] * len(gammas)
            for branch in self.rule.needs(step) if self.rule.active(step) else ():
                live = list(branch.live) if isinstance(branch, limited) else [True] * len(gammas)
            self.asked.append(live)
            self.results.append(self.rule.predict(step))
            self.notes.append(step.notes)
        return self

    def evaluate(self, branch: Any, predictions: dict[Any, torch.Tensor]) -> torch.Tensor:
        if not isinstance(branch, limited) or branch.branch == COND:
            return predictions[getattr(branch, "branch", branch)]
        assert list(branch.live) == self.asked[-1]
        live = torch.tensor(branch.live)[:, None]
        return torch.where(live, predictions[branch.branch], predictions[COND])

    @property
    def evaluations(self) -> list[int]:
        """Predictions made for each image over the run."""
        return [len(self.asked) + sum(column) for column in zip(*self.asked, strict=True)]


GAMMAS = ([0.1, 0.5], [0.95, 0.6], [0.2, 0.99], [0.3, 0.3])


def test_each_image_stops_after_the_step_at_which_it_converges() -> None:
    script = Script(AdaptiveGuidance(4.0, 0.9, "raw"))(*GAMMAS)
    assert script.asked == [[True, True], [True, True], [False, True], [False, False]]
    assert script.evaluations == [6, 7]
    for step, live in enumerate(script.asked):
        known = pair(GAMMAS[step])
        guided = cfg(known[UNCOND], known[COND], 4.0)
        for image in range(2):
            expected = guided if live[image] else known[COND]
            assert torch.equal(script.results[step][image], expected[image])
    assert [notes["guided_images"] for notes in script.notes] == [2, 2, 1, 0]
    assert script.notes[2]["cosine"] == [None, pytest.approx(0.99)]
    assert "cosine" not in script.notes[3]


def test_crossing_step_can_be_conditional_at_the_same_cost() -> None:
    guided = Script(AdaptiveGuidance(4.0, 0.9, "raw"))(*GAMMAS)
    conditional = Script(AdaptiveGuidance(4.0, 0.9, "raw", crossing="conditional"))(*GAMMAS)
    assert conditional.evaluations == guided.evaluations
    cond = pair(GAMMAS[1])[COND]
    assert torch.equal(conditional.results[1][0], cond[0])
    assert torch.equal(conditional.results[1][1], guided.results[1][1])
    assert not torch.equal(guided.results[1][0], cond[0])


def test_batch_is_its_images_one_by_one() -> None:
    rule = AdaptiveGuidance(4.0, 0.9, "raw")
    together = Script(rule)(*GAMMAS)
    for image in range(2):
        alone = Script(rule)(*([gammas[image]] for gammas in GAMMAS))
        assert alone.evaluations == [together.evaluations[image]]
        for one, all_ in zip(alone.results, together.results, strict=True):
            assert torch.equal(one[0], all_[image])


def test_higher_threshold_never_costs_less() -> None:
    gammas = ([0.1], [0.5], [0.4], [0.93], [0.7], [0.99], [0.999])
    costs = [
        Script(AdaptiveGuidance(4.0, threshold, "raw"))(*gammas).evaluations[0]
        for threshold in (0.3, 0.5, 0.6, 0.9, 0.95, 0.995, 0.9999)
    ]
    assert costs == [9, 9, 11, 11, 13, 14, 14]


def test_threshold_one_is_the_rule_inside_and_measures_nothing() -> None:
    script = Script(AdaptiveGuidance(4.0, 1.0))([1.0], [1.0])
    assert script.evaluations == [4]
    assert script.notes == [{"scale": 4.0}] * 2
    assert script.memory == {}


def test_lowest_threshold_guides_one_step() -> None:
    with pytest.warns(UserWarning, match=r"1 of 1 images converged at the very first call"):
        script = Script(AdaptiveGuidance(4.0, -1, "raw"))([-0.9], [0.1], [0.2])
    assert script.evaluations == [4]


def test_min_steps_are_guided_in_any_case() -> None:
    script = Script(AdaptiveGuidance(4.0, 0.9, "raw", min_steps=3))(*[[0.95]] * 5)
    assert script.evaluations == [8]


def test_broken_predictions_never_converge() -> None:
    gammas = [[float("nan")]] * 3
    assert Script(AdaptiveGuidance(4.0, -1, "raw"))(*gammas).evaluations == [6]


def test_heun_converges_between_steps_only() -> None:
    """Heun calls at t0 t1 | t1 t2 | t2 t3: the second call of a step neither measures nor drops."""
    times = [9.0, 8.0, 8.0, 7.0, 7.0, 6.0, 6.0]
    script = Script(AdaptiveGuidance(4.0, 0.9, "raw"), times)(
        [0.1], [0.2], [0.95], [0.1], [0.1], [0.1], [0.1]
    )
    assert script.asked == [[True]] * 4 + [[False]] * 3
    assert "cosine" not in script.notes[3]
    script = Script(AdaptiveGuidance(4.0, 0.9, "raw"), times)(
        [0.1], [0.2], [0.3], [0.95], [0.2], [0.1], [0.95]
    )
    assert script.asked == [[True]] * 7


def test_one_repeated_time_does_not_stop_the_measurement() -> None:
    """PNDM repeats its second timestep and no other."""
    times = [9.0, 8.0, 8.0, 7.0, 6.0, 5.0]
    gammas = [[0.1]] * 4 + [[0.95]] * 2
    script = Script(AdaptiveGuidance(4.0, 0.9, "raw"), times)(*gammas)
    assert script.asked == [[True]] * 5 + [[False]]


def test_nothing_is_measured_where_the_rule_inside_needs_no_uncond() -> None:
    gammas = [[0.95]] * 4
    script = Script(AdaptiveGuidance(table((4, 1, 1, 4)), 0.99, "raw"))(*gammas)
    assert [("cosine" in notes) for notes in script.notes] == [True, False, False, True]
    late = Script(AdaptiveGuidance(CFG(4.0).between(0.5, 1), 0.9, "raw"))(*gammas)
    assert late.asked == [[False], [False], [True], [False]]


def test_outside_its_own_interval_nothing_is_asked() -> None:
    script = Script(AdaptiveGuidance(4.0, 0.9, "raw").between(0.5, 1))(*[[0.95]] * 4)
    assert script.asked == [[False], [False], [True], [False]]


def test_cosines_of_two_gaussians_along_an_exact_flow() -> None:
    """Between noises the threshold is crossed at once; between x0 the cosine rises through it."""
    torch.manual_seed(0)
    mean, shift, x = torch.randn(3, 1, 64, dtype=torch.float64)
    uncond_mean, cond_mean, count = 0.15 * mean, 0.15 * (mean + 1.2 * shift), 20
    found: dict[str, list[float]] = {"eps": [], "velocity": [], "x0": []}
    for index in range(count):
        sigma = 0.98 * (1 - index / count)
        alpha = 1 - sigma

        def velocity(mu: torch.Tensor) -> torch.Tensor:
            """The exact one for data N(mu, I)."""
            x0 = mu + alpha / (alpha**2 + sigma**2) * (x - alpha * mu)  # noqa: B023
            return (x - x0) / sigma  # noqa: B023

        step = Step(
            index=index,
            count=count,
            timestep=1000 * sigma,
            alpha=alpha,
            sigma=sigma,
            x=x,
            prediction_type="flow_prediction",
            evaluator={COND: velocity(cond_mean), UNCOND: velocity(uncond_mean)}.__getitem__,
        )
        for space, values in found.items():
            guided = AdaptiveGuidance(4.0, 0.999999999, space).predict(step)
            values += step.notes["cosine"]
            step.memory.clear()
        x = x - 0.98 / count * guided
    assert found["eps"][0] > 0.999 > found["velocity"][0] > 0.95 > 0.9 > found["x0"][0]
    crossed = next(index for index, gamma in enumerate(found["x0"]) if gamma >= 0.991)
    assert 3 < crossed < count - 3
    assert sorted(found["x0"]) == found["x0"]


def test_cosine_of_x0_is_that_of_every_parametrisation() -> None:
    x, cond, uncond = torch.randn(3, 2, 4, 3, 3, dtype=torch.float64)
    found = []
    for kind in ("epsilon", "v_prediction", "sample", "flow_prediction"):
        alpha = 0.2 if kind == "flow_prediction" else 0.6
        step = Step(
            index=0,
            count=4,
            timestep=1.0,
            alpha=alpha,
            sigma=0.8,
            x=x,
            prediction_type=kind,
            evaluator=lambda branch: step.from_x0({COND: cond, UNCOND: uncond}[branch]),  # noqa: B023
        )
        AdaptiveGuidance(4.0).predict(step)
        found.append(step.notes["cosine"])
    for other in found[1:]:
        assert other == pytest.approx(found[0])
    assert found[0] == pytest.approx(cosine(cond, uncond).tolist())


def rows_seen(pipe: Any, rule: Rule, **call: Any) -> tuple[list[int], Any, Any]:
    rows = tiny.Rows(pipe)
    try:
        with guide(pipe, rule) as run:
            result = tiny.sample(pipe, steps=6, batch=2, **call)
    finally:
        rows.remove()
    return rows.seen, run.report, result


def test_pipeline_drops_converged_images_from_the_uncond_rows(sd: Any) -> None:
    seen, report, result = rows_seen(sd, AdaptiveGuidance(5.0, 0.99993))
    assert seen == [4, 4, 3, 2, 2, 2]
    assert report.nfe == 8.5
    assert [record.extras["guided_images"] for record in report.steps] == [2, 2, 1, 0, 0, 0]
    with guide(sd, AdaptiveGuidance(5.0, 0.99993)) as run:
        alone = tiny.sample(sd, steps=6)
    assert run.report.nfe == 8
    close(alone[0], result[0])


def test_every_family_is_its_images_one_by_one(pipe: Any) -> None:
    rule = AdaptiveGuidance(5.0, 0.99 if type(pipe).__name__ == "DiTPipeline" else 0.99993)
    with guide(pipe, rule) as run:
        together = tiny.sample(pipe, steps=6, batch=2)
        close(tiny.sample(pipe, steps=6)[0], together[0])
    with guide(pipe, rule, batching="sequential") as other:
        close(tiny.sample(pipe, steps=6, batch=2), together)
    assert other.report.nfe == sum(record.evaluations for record in run.report.steps[:6]) < 12


def test_is_the_rule_inside_until_it_crosses(sd: Any) -> None:
    seen, _, result = rows_seen(sd, AdaptiveGuidance(5.0, 1.0))
    plain_seen, _, plain = rows_seen(sd, CFG(5.0))
    assert seen == plain_seen
    assert torch.equal(result, plain)
    with guide(sd, AdaptiveGuidance(threshold=1.0)):
        assert torch.equal(tiny.sample(sd), tiny.sample(sd))


def test_pipelines_own_scale_is_used_where_none_is_given(sd: Any) -> None:
    native = tiny.sample(sd, scale=5.0)
    with guide(sd, AdaptiveGuidance(threshold=1.0)):
        assert torch.equal(tiny.sample(sd, scale=5.0), native)


def test_two_call_pipelines_skip_their_second_call() -> None:
    family = tiny_families.FAMILIES["flux"]
    pipe = family()
    rows = tiny.Rows(pipe)
    with guide(pipe, AdaptiveGuidance(5.0, 0.5, "raw", min_steps=2)) as run:
        family.call(pipe, steps=4)
    rows.remove()
    assert run.report.nfe == 6
    assert rows.seen == [1] * 6


@pytest.mark.parametrize(
    "rule", [PerpNeg(("blue",), 2.0, 4.0) + Rescale(0.7), APG(4.0, norm_threshold=5.0)]
)
def test_other_rules_stop_too_and_equal_themselves_before(sd: Any, rule: Rule) -> None:
    wrapped = AdaptiveGuidance(rule, 0.99993)
    seen, _, result = rows_seen(sd, wrapped)
    assert seen[0] > seen[2] > seen[4] == 2
    assert torch.equal(rows_seen(sd, AdaptiveGuidance(rule, 1.0))[2], rows_seen(sd, rule)[2])
    with guide(sd, wrapped):
        close(tiny.sample(sd, steps=6)[0], result[0])


def test_state_starts_anew_in_every_run(sd: Any) -> None:
    with guide(sd, AdaptiveGuidance(5.0, 0.99993)):
        first, second = tiny.sample(sd), tiny.sample(sd)
    assert torch.equal(first, second)


def test_composes_with_corrections_but_not_with_another_owner() -> None:
    chain = AdaptiveGuidance(4.0) + Rescale(0.7)
    assert chain.owns_uncond
    with pytest.raises(ValueError, match="at most one rule may own the uncond direction"):
        AdaptiveGuidance(4.0) + CFG(3.0)


@pytest.mark.parametrize(
    "rule",
    [
        AdaptiveGuidance(),
        AdaptiveGuidance(4.0, 0.99, "raw", 2, "conditional"),
        AdaptiveGuidance(linear(2, 6)).between(0.1, 0.9),
        AdaptiveGuidance(PerpNeg(("a", "b"), (1, 2)) + Rescale(0.7), 0.9),
    ],
)
def test_repr_json_and_text_rebuild_it(rule: Rule) -> None:
    names = {cls.__name__: cls for cls in (AdaptiveGuidance, CFG, PerpNeg, Rescale, linear)}
    assert eval(repr(rule), names) == rule
    assert Rule.from_config(json.loads(json.dumps(rule.to_config()))) == rule
    assert parse_rule(repr(rule)) == rule


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((Rescale(0.7),), "rule_or_scale must be a number or a rule that uses the uncond"),
        ((AdaptiveGuidance(4.0),), "rule_or_scale must be a number or a rule"),
        ((AdaptiveGuidance(4.0) + Rescale(),), "rule_or_scale must be a number or a rule"),
        ((-1,), "scale must be a finite number from 0 up"),
        ((4.0, float("nan")), "threshold must be a finite number from -1 up"),
        ((4.0, -1.1), "threshold must be a finite number from -1 up"),
        ((4.0, 0.9, "noise"), "space must be one of x0, raw, eps, velocity, found 'noise'"),
        ((4.0, 0.9, "x0", 0), "min_steps must be a finite number from 1 up"),
        ((4.0, 0.9, "x0", 1.5), "min_steps must be whole, found 1.5"),
        ((4.0, 0.9, "x0", 1, "none"), "crossing must be one of guided, conditional"),
    ],
)
def test_impossible_settings_raise(settings: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveGuidance(*settings)
    with pytest.raises(TypeError, match="scale must be"):
        AdaptiveGuidance("much")  # type: ignore[arg-type]
