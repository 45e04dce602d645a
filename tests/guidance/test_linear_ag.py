"""LinearAG: the regression, the policy, the file and what it is refused for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from guidance import CFG, COND, UNCOND, Rescale, Rule, Step, guide
from guidance.cfg import cfg
from guidance.core.families import FAMILIES
from guidance.core.spec import parse_rule
from guidance.fit_linear_ag import fit_linear_ag
from guidance.linear_ag import Fit, LinearAG, fit, gram, model_name, predict, solve
from tests import tiny
from tests.tiny import close


def test_first_call_has_the_condition_alone() -> None:
    cond, uncond = torch.randn(2, 3, 2, 4, 6, 6, dtype=torch.float64)
    beta = fit(cond, uncond, ridge=0)[0]
    expected = (cond[0] * uncond[0]).sum() / (cond[0] * cond[0]).sum()
    torch.testing.assert_close(beta, expected[None])


def test_exact_combination_is_recovered() -> None:
    """The last uncond is made of what came before it; nothing explains the others."""
    cond, free = torch.randn(2, 4, 2, 4, 6, 6, dtype=torch.float64)
    uncond = free.clone()
    uncond[3] = 0.5 * cond[3] - 0.25 * cond[0] + 2 * uncond[1] + 0.125 * uncond[2]
    beta = fit(cond, uncond, ridge=0)[3]
    expected = torch.tensor([-0.25, 0, 0, 0.5, 0, 2, 0.125], dtype=torch.float64)
    assert (beta - expected).abs().max() < 1e-9
    torch.testing.assert_close(predict([*cond], [*uncond[:3]], beta), uncond[3])


def test_residual_is_orthogonal_to_what_was_known() -> None:
    cond, uncond = torch.randn(2, 3, 2, 4, 6, 6, dtype=torch.float64)
    for i, beta in enumerate(fit(cond, uncond, ridge=0)):
        residual = uncond[i] - predict([*cond[: i + 1]], [*uncond[:i]], beta)
        for known in (*cond[: i + 1], *uncond[:i]):
            assert abs(float((residual * known).sum())) < 1e-9


def test_runs_add_up_to_the_regression_on_all_of_them() -> None:
    cond, uncond = torch.randn(2, 3, 4, 5, 7, dtype=torch.float64)
    halves = [gram(cond[:, part], uncond[:, part]) for part in (slice(0, 1), slice(1, 4))]
    together = torch.cat([cond.flatten(1), uncond.flatten(1)])
    for i, beta in enumerate(solve(sum(halves[1:], halves[0]), ridge=0)):
        known = torch.cat([together[: i + 1], together[3 : 3 + i]]).T
        expected = torch.linalg.lstsq(known, together[3 + i, :, None]).solution[:, 0]
        torch.testing.assert_close(beta, expected)


def test_ridge_tames_collinear_predictions() -> None:
    base = torch.randn(1, 4000, dtype=torch.float64)
    cond, uncond = (base + 1e-5 * torch.randn(5, 4000, dtype=torch.float64) for _ in range(2))
    uncond[4] = cond[4] + 50 * (cond[0] - cond[1])
    wild, tame = fit(cond, uncond, ridge=0)[4], fit(cond, uncond)[4]
    assert tame.abs().max() < 1 < 49 < wild.abs().max()
    torch.testing.assert_close(predict([*cond], [*uncond[:4]], tame), uncond[4], rtol=0, atol=5e-3)
    assert fit(torch.zeros_like(cond), uncond)[0].tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_estimate_of_low_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    cond = 30000 * torch.randn(3, 1, 8).clamp(-1, 1).to(dtype)
    beta = torch.tensor([5.0, -5.0, 1.0, 0.0, 0.0])
    estimate = predict([*cond], [*cond[:2]], beta)
    assert estimate.dtype == dtype
    expected = 5 * cond[0].float() - 5 * cond[1].float() + cond[2].float()
    torch.testing.assert_close(estimate, expected.to(dtype))


def saved(path: Path, calls: int = 4, **changes: Any) -> str:
    """A file for predictions ``(2,)`` whose estimate is the last condition doubled."""
    half = (calls + 1) // 2
    values: dict[str, Any] = {
        "model": "Toy 0",
        "scheduler": "DDIMScheduler",
        "scale": 3.0,
        "calls": calls,
        "shape": (2,),
        "timesteps": tuple(1000.0 - i for i in range(half)),
        "images": 1,
        "coefficients": tuple((*[0.0] * i, 2.0, *[0.0] * i) for i in range(half)),
    }
    Fit(**values | changes).save(path / "fit.json")
    return str(path / "fit.json")


def step(index: int, memory: dict[Any, Any], count: int = 4, time: float | None = None) -> Step:
    cond = torch.tensor([[1.0, index]])

    def evaluate(branch: Any) -> torch.Tensor:
        return {COND: cond, UNCOND: cond - 1}[branch]

    return Step(
        index=index,
        count=count,
        timestep=1000.0 - index if time is None else time,
        alpha=0.6,
        sigma=0.8,
        x=cond,
        prediction_type="epsilon",
        evaluator=evaluate,
        memory=memory,
        scheduler="DDIMScheduler",
    )


@pytest.mark.parametrize(("calls", "evaluations"), [(20, 25), (4, 5), (5, 7), (1, 2)])
def test_policy_alternates_and_then_stops(tmp_path: Path, calls: int, evaluations: int) -> None:
    rule, memory = LinearAG(3.0, saved(tmp_path, calls)), dict[Any, Any]()
    spent = 0
    for index in range(calls):
        at = step(index, memory, calls)
        spent += 1 + len(list(rule.needs(at)))
        result, cond = rule.predict(at), at.evaluate(COND)
        if 2 * index >= calls:
            assert torch.equal(result, cond)
            assert memory == {}
        else:
            uncond = 2 * cond if index % 2 else cond - 1
            assert torch.equal(result, cfg(uncond, cond, 3.0))
        assert at.notes["scale"] == (1.0 if 2 * index >= calls else 3.0)
    assert spent == evaluations


def test_scale_one_is_neutral(tmp_path: Path) -> None:
    rule, memory = LinearAG(1.0, saved(tmp_path)), dict[Any, Any]()
    for index in range(4):
        at = step(index, memory)
        assert list(rule.needs(at)) == []
        assert torch.equal(rule.predict(at), at.evaluate(COND))


def test_other_calls_are_refused_with_what_differs(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(ValueError, match=r"another scale: expected 3\.0, found 4\.0; fit them"):
        LinearAG(4.0, path)
    rule = LinearAG(3.0, path)
    with pytest.raises(ValueError, match="another number of calls: expected 4, found 6"):
        rule.predict(step(0, {}, count=6))
    with pytest.raises(ValueError, match=r"another timestep at call 0: expected 1000\.0"):
        rule.predict(step(0, {}, time=980.0))
    with pytest.raises(ValueError, match="another scheduler: expected DDIMScheduler, found Euler"):
        rule.predict(replace(step(0, {}), scheduler="EulerDiscreteScheduler"))
    wide = LinearAG(3.0, saved(tmp_path, shape=(3,)))
    with pytest.raises(ValueError, match=r"another size of the image: expected \(3,\), found"):
        wide.predict(step(0, {}))
    with pytest.raises(ValueError, match="must act from the first call on"):
        rule.predict(step(1, {}))


def test_other_models_are_refused_on_entering(sd: Any, tmp_path: Path) -> None:
    rule = LinearAG(3.0, saved(tmp_path))
    with pytest.raises(ValueError, match="another model: expected Toy 0, found UNet2DCondition"):
        guide(sd, rule)
    other = type(sd.unet).from_config(sd.unet.config, layers_per_block=2)
    assert model_name(other) != model_name(sd.unet)
    assert model_name(tiny.sd().unet) == model_name(sd.unet)
    LinearAG(3.0, saved(tmp_path, model=model_name(sd.unet))).check(sd.unet, FAMILIES[0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "it holds something else"),
        ("{}", "it holds something else"),
        ('{"method": "CADS"}', "it holds something else"),
        ('{"method": "LinearAG"}', "missing 8 required"),
        ('{"method": "LinearAG", "more": 1}', "unexpected keyword argument 'more'"),
        (None, "No such file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "other.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=f"must be a file written by fit_linear_ag, but.*{reason}"):
        LinearAG(3.0, str(path))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"coefficients": ((1.0,), (1.0, 2.0))}, "do not suit 4 calls"),
        ({"timesteps": (1.0,)}, "do not suit 4 calls"),
        ({"coefficients": ((1.0,), (1.0, 2.0, float("nan")))}, "are not finite"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, changes: Any, reason: str) -> None:
    path = saved(tmp_path, **changes)
    with pytest.raises(ValueError, match=reason):
        LinearAG(3.0, path)


CALLS: dict[str, Any] = {"height": 16, "width": 16}


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_fit_and_use_on_pipelines(family: str, tmp_path: Path) -> None:
    pipe: Any = tiny.FAMILIES[family]()
    prompts: Any = [1, 2] if family == "dit" else [tiny.PROMPT, "blue owl"]
    call = {} if family == "dit" else CALLS | {"negative_prompt": [tiny.NEGATIVE]}
    path, generator = tmp_path / "fit.json", torch.Generator().manual_seed(0)
    rule = fit_linear_ag(pipe, prompts, 5.0, 8, path, generator=generator, call=call)
    assert rule == LinearAG(5.0, str(path))
    assert rule.fitted.scheduler == type(pipe.scheduler).__name__
    assert rule.fitted.images == 2
    with guide(pipe, rule) as run:
        result = tiny.sample(pipe, steps=8, batch=2)
        close(tiny.sample(pipe, steps=8)[0], result[0])
    assert [record.evaluations for record in run.report.steps[:8]] == [2, 1, 2, 1, 1, 1, 1, 1]
    with guide(pipe, rule), pytest.raises(ValueError, match="another number of calls"):
        tiny.sample(pipe, steps=6)


def test_perfect_estimates_give_guided_images(sd: Any, tmp_path: Path) -> None:
    """A model whose uncond is half its cond at every call: the fit knows it, and the image too."""
    plain = sd.unet.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)[0]
        cond = output[len(output) // 2 :] if len(output) > 1 else output
        return (torch.cat([0.5 * cond, cond]) if len(output) > 1 else output,)

    sd.unet.forward = forward
    call = CALLS | {"negative_prompt": [tiny.NEGATIVE]}
    rule = fit_linear_ag(sd, [tiny.PROMPT], 5.0, 4, tmp_path / "fit.json", call=call, ridge=1e-12)
    with guide(sd, CFG(5.0).between(0, 0.5)):
        expected = tiny.sample(sd, steps=4)
    with guide(sd, rule) as run:
        torch.testing.assert_close(tiny.sample(sd, steps=4), expected, rtol=1e-3, atol=1e-3)
    assert run.report.nfe == 5


def test_fit_needs_prompts_and_a_scale(sd: Any, tmp_path: Path) -> None:
    prompts: Any
    for prompts in ([], "red fox"):
        with pytest.raises(ValueError, match="prompts must hold at least one prompt"):
            fit_linear_ag(sd, prompts, 5.0, 4, tmp_path / "fit.json")
    with pytest.raises(ValueError, match="scale must be a number above 1, found 1"):
        fit_linear_ag(sd, ["a"], 1.0, 4, tmp_path / "fit.json")


def test_repr_json_and_text_rebuild_it(tmp_path: Path) -> None:
    path = saved(tmp_path)
    for rule in (LinearAG(3.0, path), LinearAG(3.0, path) + Rescale(0.7)):
        assert eval(repr(rule), {"LinearAG": LinearAG, "Rescale": Rescale}) == rule
        assert Rule.from_config(json.loads(json.dumps(rule.to_config()))) == rule
        assert parse_rule(repr(rule)) == rule
    with pytest.raises(ValueError, match="at most one rule may own the uncond direction"):
        LinearAG(3.0, path) + CFG(4.0)
    with pytest.raises(ValueError, match="LinearAG: scale must be a finite number from 0 up"):
        LinearAG(-1, path)
