"""What holds for every denoiser family, on tiny pipelines of all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers.guiders import AdaptiveProjectedMixGuidance, SkipLayerGuidance

from guidance import CFG, COND, UNCOND, CFGZeroStar, Direction, Rule, Step, guide, prompt
from guidance.core.family import family_of
from guidance.core.prediction import Branch
from guidance.core.target import Target
from tests import tiny
from tests.guidance.rules import spy
from tests.tiny import close
from tests.tiny_families import FAMILIES

GUIDED = [name for name, family in FAMILIES.items() if family.scale not in (None, "guider")]
SINGLE = [name for name, family in FAMILIES.items() if family.scale is None]
NEGATIVE = [
    name
    for name in GUIDED
    if FAMILIES[name].negative and name != "lumina2"  # puts a system prompt before the main one
]
FIRST_ORDER = ("DDIMScheduler", "FlowMatchEulerDiscreteScheduler", "CogVideoXDDIMScheduler")
STEPS = 3


@dataclass(frozen=True, repr=False)
class Away(Direction):
    """Classifier-free guidance against an extra prompt instead of the pipeline's own."""

    text: str | tuple[str, ...]
    scale: float

    def needs(self, step: Step) -> Iterable[Branch]:
        return (prompt(self.text),)

    def prompts(self) -> tuple[prompt, ...]:
        return (prompt(self.text),)

    def guide(self, step: Step) -> torch.Tensor:
        cond, other = step.evaluate(COND), step.evaluate(prompt(self.text))
        return (step.native or _cfg)(other, cond, self.scale)


def _cfg(uncond: torch.Tensor, cond: torch.Tensor, scale: float) -> torch.Tensor:
    return uncond + scale * (cond - uncond)


class Forwards:
    """Counts the rows that the denoisers of a pipeline really evaluate."""

    def __init__(self, pipe: Any) -> None:
        self.rows: list[int] = []
        for model in Target(pipe).denoisers:
            model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        family = family_of(module)
        assert family is not None
        self.rows.append(len(kwargs[family.sample] if family.sample in kwargs else args[0]))


def sample(name: str, pipe: Any, **changes: Any) -> torch.Tensor:
    return FAMILIES[name].call(pipe, **{"scale": 3.0, "batch": 2, "steps": STEPS} | changes)


def scale_of(name: str) -> float:
    """``w`` of the scale that ``sample`` gives the pipeline."""
    return 4.0 - FAMILIES[name].off


@pytest.mark.parametrize("name", GUIDED)
@pytest.mark.parametrize("batching", ["joint", "sequential"])
def test_cfg_is_the_pipelines_own(name: str, batching: str) -> None:
    pipe = FAMILIES[name]()
    native = sample(name, pipe)
    with guide(pipe, CFG(), batching=batching) as run:
        guided = sample(name, pipe)
    assert run.report.nfe == 2 * len(run.report.steps)
    if batching == "joint":
        assert torch.equal(guided, native)
        with guide(pipe, CFG(scale_of(name))):
            assert torch.equal(sample(name, pipe, scale=7.0), native)
        assert torch.equal(sample(name, pipe), native)
    else:
        close(guided, native)


@pytest.mark.parametrize("name", GUIDED)
def test_branches_that_are_not_needed_cost_nothing(name: str) -> None:
    pipe = FAMILIES[name]()
    off = sample(name, pipe, scale=FAMILIES[name].off)
    forwards = Forwards(pipe)
    with guide(pipe, CFG(1.0)) as run:
        close(sample(name, pipe), off)
    assert sum(forwards.rows) == 2 * run.report.nfe == 2 * len(run.report.steps)
    with guide(pipe, CFG().between(0.0, 0.3)) as run:
        sample(name, pipe)
    spent = [record.evaluations for record in run.report.steps]
    assert spent == [2] + [1] * (len(spent) - 1)
    assert sum(forwards.rows) == 2 * (len(spent) + sum(spent))


@pytest.mark.parametrize("name", NEGATIVE)
def test_an_extra_prompt_is_what_the_pipeline_makes_of_it(name: str) -> None:
    pipe = FAMILIES[name]()
    native = sample(name, pipe)
    rule: Rule = Away(tiny.NEGATIVE, scale_of(name))
    for batching in ("joint", "sequential"):
        with guide(pipe, rule, batching=batching) as run:
            close(sample(name, pipe), native)
        assert run.report.nfe == 2 * len(run.report.steps)
    with guide(pipe, Away((tiny.NEGATIVE, "a bell"), scale_of(name))):
        each = sample(name, pipe)
    close(each[0], native[0])
    assert not torch.allclose(each[1], native[1], atol=1e-3)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "flux_kontext"])
def test_noise_level_and_sign_describe_the_path_of_the_sampler(name: str) -> None:
    """From x0 and eps of one step, a first order sampler goes to the input of the next."""
    pipe = FAMILIES[name]()
    if type(pipe.scheduler).__name__ not in FIRST_ORDER:
        pytest.skip(f"{type(pipe.scheduler).__name__} is no first order sampler")
    if pipe.scheduler.config.get("clip_sample"):
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, clip_sample=False)
    rule = spy()
    with guide(pipe, rule):
        sample(name, pipe, steps=4)
    for step, after in zip(rule.steps, rule.steps[1:], strict=False):
        cond = step.evaluate(COND)
        moved = after.alpha * step.x0(cond) + after.sigma * step.eps(cond)
        moved = moved.narrow(step.channels, 0, cond.shape[step.channels])
        expected = after.x.narrow(step.channels, 0, cond.shape[step.channels])
        assert (moved - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", SINGLE)
def test_a_pipeline_without_guidance_takes_rules_that_need_none(name: str) -> None:
    pipe = FAMILIES[name]()
    plain = sample(name, pipe)
    with guide(pipe, CFG(1.0)) as run:
        assert torch.equal(sample(name, pipe), plain)
    assert run.report.nfe == len(run.report.steps)
    with guide(pipe, CFG(5.0)), pytest.raises(ValueError, match="this pipeline never does"):
        sample(name, pipe)


@pytest.mark.parametrize("name", [name for name in GUIDED if FAMILIES[name].off == 1.0])
@pytest.mark.parametrize("steps", [1, 2])
def test_guidance_that_is_off_is_asked_for(name: str, steps: int) -> None:
    if name == "mochi" and steps == 1:
        pytest.skip("this pipeline divides by zero for a single step")
    pipe = FAMILIES[name]()
    with guide(pipe, CFG(5.0)), pytest.raises(ValueError, match="above 1"):
        sample(name, pipe, scale=1.0, steps=steps)


def test_a_guider_component_leaves_our_prediction_alone() -> None:
    pipe = FAMILIES["hunyuan_image"]()
    plain = sample("hunyuan_image", pipe)
    with guide(pipe, CFG(1.0)) as run:
        cond = sample("hunyuan_image", pipe)
    assert run.report.nfe == STEPS
    assert not torch.allclose(cond, plain, atol=1e-3)
    with guide(pipe, Away("", 1.0)):
        close(sample("hunyuan_image", pipe), cond)


@pytest.mark.parametrize("original", [False, True])
def test_a_copy_of_the_first_prediction_is_made_up_for(original: bool) -> None:
    pipe = FAMILIES["motif"]()
    pipe.guider.use_original_formulation = original
    native = sample("motif", pipe)
    with guide(pipe, CFG()) as run:
        close(sample("motif", pipe), native)
    assert {record.scale for record in run.report.steps} == {3.0 + original}
    with guide(pipe, CFG(1.0)) as run:
        cond = sample("motif", pipe)
    assert run.report.nfe == STEPS
    close(cond, sample("motif", pipe, scale=1.0 - original))
    with guide(pipe, CFG(2.0)):
        guided = sample("motif", pipe)
    close(guided, sample("motif", pipe, scale=2.0 - original))
    assert not torch.allclose(cond, guided, atol=1e-3)


def test_a_guider_that_would_change_the_guided_prediction_is_refused() -> None:
    pipe = FAMILIES["motif"]()
    for guider in (AdaptiveProjectedMixGuidance(), SkipLayerGuidance(skip_layer_guidance_layers=0)):
        pipe.guider = guider
        with (
            pytest.raises(ValueError, match="cannot be guided with its guider"),
            guide(pipe, CFG()),
        ):
            pass


def test_a_zero_prediction_survives_renormalisation() -> None:
    pipe = FAMILIES["qwen"]()
    with guide(pipe, CFGZeroStar(4.0)) as run:
        assert sample("qwen", pipe).isfinite().all()
    assert [record.evaluations for record in run.report.steps] == [1, 2, 2]


def test_two_denoisers_take_turns_with_their_own_scales() -> None:
    pipe = FAMILIES["wan22"]()
    native = sample("wan22", pipe, guidance_scale_2=6.0)
    with guide(pipe, CFG()) as run:
        assert torch.equal(sample("wan22", pipe, guidance_scale_2=6.0), native)
    assert {record.scale for record in run.report.steps} == {3.0, 6.0}


def test_uncond_rows_of_a_call_of_their_own_are_read_only_when_needed() -> None:
    pipe = FAMILIES["flux"]()

    class Uncond(Direction):
        def needs(self, step: Step) -> Iterable[Branch]:
            return (UNCOND,)

        def guide(self, step: Step) -> torch.Tensor:
            return step.evaluate(UNCOND)

    with guide(pipe, Uncond()):
        uncond = sample("flux", pipe)
    with guide(pipe, CFG(0.0)):
        close(sample("flux", pipe), uncond)
    swapped = {"prompt": [tiny.NEGATIVE] * 2, "negative_prompt": ["x", "y"]}
    close(sample("flux", pipe, scale=1.0, **swapped), uncond)
