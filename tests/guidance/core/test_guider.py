"""diffusers' guiders as rules: equal to themselves, and to ours where they mean the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import guiders
from diffusers.guiders.guider_utils import BaseGuidance
from torch import Tensor

from guidance import APG, CFG, COND, UNCOND, CFGZeroStar, Rescale, Step, guide
from guidance.core.guider import from_guider
from tests import tiny, tiny_families
from tests.tiny import close

GUIDERS: dict[str, Callable[[], Any]] = {
    "cfg": lambda: guiders.ClassifierFreeGuidance(5.0),
    "cfg_original": lambda: guiders.ClassifierFreeGuidance(5.0, use_original_formulation=True),
    "cfg_rescaled": lambda: guiders.ClassifierFreeGuidance(5.0, guidance_rescale=0.7),
    "cfg_interval": lambda: guiders.ClassifierFreeGuidance(5.0, start=0.25, stop=0.75),
    "zero_star": lambda: guiders.ClassifierFreeZeroStarGuidance(5.0, zero_init_steps=1),
    "apg": lambda: guiders.AdaptiveProjectedGuidance(5.0, -0.5, 2.0, eta=0.2),
    "apg_mix": lambda: guiders.AdaptiveProjectedMixGuidance(
        3.5, adaptive_projected_guidance_start_step=1
    ),
    "tangential": lambda: guiders.TangentialClassifierFreeGuidance(5.0),
}
every_guider = pytest.mark.parametrize("name", GUIDERS)


def step(index: int, cond: Tensor, uncond: Tensor, memory: dict[Any, Any]) -> Step:
    return Step(
        index=index,
        count=4,
        timestep=900.0 - 100 * index,
        alpha=0.6,
        sigma=0.8,
        x=cond,
        prediction_type="epsilon",
        evaluator={COND: cond, UNCOND: uncond}.__getitem__,
        memory=memory,
    )


def own_run(guider: Any, predictions: Tensor) -> list[Tensor]:
    """What a guider makes of a run as diffusers runs it."""
    results = []
    for index, (cond, uncond) in enumerate(predictions):
        guider.set_state(index, len(predictions), torch.tensor(900 - 100 * index))
        guider.prepare_inputs({})
        needed = uncond if guider.num_conditions > 1 else None
        results.append(guider.forward(cond, needed).pred)
    return results


@every_guider
@pytest.mark.parametrize("shape", [(2, 6, 4), (2, 4, 5, 5)])
def test_equals_the_guider_run_after_run(name: str, shape: tuple[int, ...]) -> None:
    predictions = torch.randn(4, 2, *shape)
    expected = own_run(GUIDERS[name](), predictions)
    rule = from_guider(GUIDERS[name]())
    for _ in range(2):
        memory: dict[Any, Any] = {}
        for index, (cond, uncond) in enumerate(predictions):
            result = rule.predict(step(index, cond, uncond, memory))
            assert torch.equal(result, expected[index])


def through_the_denoiser(pipe: Any, guider: Any, steps: int) -> Any:
    """A run in which the denoiser's own output passes through a guider."""
    plain, index = pipe.unet.forward, 0

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal index
        uncond, cond = plain(*args, **kwargs)[0].chunk(2)
        guider.set_state(index, steps, torch.tensor(0))
        guider.prepare_inputs({})
        guided = guider.forward(cond, uncond if guider.num_conditions > 1 else None).pred
        index += 1
        return (torch.cat([guided, guided]),)

    pipe.unet.forward = forward
    try:
        return tiny.sample(pipe, steps=steps)
    finally:
        del pipe.unet.forward


@every_guider
def test_equals_the_guider_on_a_pipeline(sd: Any, name: str) -> None:
    expected = through_the_denoiser(sd, GUIDERS[name](), 4)
    rule = from_guider(GUIDERS[name]())
    with guide(sd, rule) as run:
        for _ in range(2):
            close(tiny.sample(sd), expected)
    inside = [1, 2, 2, 1] if name == "cfg_interval" else [2, 2, 2, 2]
    assert [record.evaluations for record in run.report.steps] == 2 * inside


def test_plain_guider_is_our_guidance_bit_for_bit(pipe: Any) -> None:
    native = tiny.sample(pipe, scale=5.0, batch=2)
    with guide(pipe, from_guider(guiders.ClassifierFreeGuidance(5.0))) as run:
        assert torch.equal(tiny.sample(pipe, batch=2), native)
    assert [record.scale for record in run.report.steps] == [5.0] * 4


def test_rescaled_guider_equals_our_chain(sd: Any) -> None:
    with guide(sd, CFG(5.0) + Rescale(0.7)):
        expected = tiny.sample(sd, batch=2)
    with guide(sd, from_guider(GUIDERS["cfg_rescaled"]())):
        close(tiny.sample(sd, batch=2), expected)


def test_projected_guider_equals_ours_on_models_of_x0(sd: Any) -> None:
    """Its space is the model's own, ours is x0."""
    sd.scheduler = tiny.scheduler("DDIMScheduler", prediction_type="sample", clip_sample=False)
    with guide(sd, APG(5.0, 0.2, 2.0, -0.5)):
        expected = tiny.sample(sd, batch=2)
    guider = guiders.AdaptiveProjectedGuidance(
        4.0, -0.5, 2.0, eta=0.2, use_original_formulation=True
    )
    with guide(sd, from_guider(guider)):
        torch.testing.assert_close(tiny.sample(sd, batch=2), expected, rtol=1e-3, atol=1e-4)


def test_zero_star_equals_ours_on_flow_models(sd3: Any) -> None:
    with guide(sd3, CFGZeroStar(5.0)):
        expected = tiny.sample(sd3)
    with guide(sd3, from_guider(guiders.ClassifierFreeZeroStarGuidance(5.0))):
        close(tiny.sample(sd3), expected)


def test_guider_switched_off_costs_nothing(sd: Any) -> None:
    plain, guider = tiny.sample(sd, scale=1.0), guiders.ClassifierFreeGuidance(5.0)
    rule = from_guider(guider)
    guider.disable()
    with guide(sd, rule) as run:
        assert torch.equal(tiny.sample(sd), plain)
        assert run.report.nfe == 4
        guider.enable()
        assert not torch.equal(tiny.sample(sd), plain)
    assert run.report.nfe == 12
    with guide(sd, from_guider(guiders.ClassifierFreeGuidance(1.0))) as run:
        assert torch.equal(tiny.sample(sd), plain)
    assert run.report.nfe == 4


def test_momentum_starts_anew_where_the_rule_starts_late() -> None:
    predictions = torch.randn(4, 2, 2, 6, 4)
    rule = from_guider(GUIDERS["apg"]()).between(0.5, 1.0)
    runs = []
    for _ in range(2):
        memory: dict[Any, Any] = {}
        runs.append(
            [
                rule.predict(step(i, cond, uncond, memory))
                for i, (cond, uncond) in enumerate(predictions)
            ]
        )
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))
    assert torch.equal(runs[0][0], predictions[0, 0])
    assert not torch.equal(runs[0][2], predictions[2, 0])


def test_magnitude_aware_guidance_works_on_tokens() -> None:
    family = tiny_families.FAMILIES["flux"]
    pipe = family()
    with guide(pipe, from_guider(guiders.MagnitudeAwareGuidance(5.0, alpha=0.5))) as run:
        result = family.call(pipe)
    assert run.report.nfe == 4
    assert not torch.equal(result, family.call(pipe))


def test_frequency_decoupled_guidance_where_kornia_is() -> None:
    pytest.importorskip("kornia")
    pipe = tiny.sd()
    with guide(pipe, from_guider(guiders.FrequencyDecoupledGuidance([5.0, 5.0]))):
        result = tiny.sample(pipe)
    close(result, tiny.sample(pipe, scale=5.0))


class Picky(guiders.ClassifierFreeGuidance):
    """Fails as a tensor operation does on a shape that it does not know."""

    def forward(self, pred_cond: Tensor, pred_uncond: Tensor | None = None) -> Any:
        raise RuntimeError("dim must be a 2-tuple")


def test_predictions_that_a_guider_cannot_take_raise_one_line(sd: Any) -> None:
    with (
        guide(sd, from_guider(Picky(5.0))),
        pytest.raises(ValueError, match=r"from_guider\(Picky\) cannot work.*\(1, 4, 8, 8\).*2-tup"),
    ):
        tiny.sample(sd)


@pytest.mark.parametrize(
    ("guider", "message"),
    [
        (lambda: guiders.SkipLayerGuidance(skip_layer_guidance_layers=[0]), "SkipLayers"),
        (
            lambda: guiders.PerturbedAttentionGuidance(perturbed_guidance_layers=[0]),
            r"use guidance\.PAG",
        ),
        (lambda: guiders.SmoothedEnergyGuidance(seg_guidance_layers=[0]), r"use guidance\.SEG"),
        (
            lambda: guiders.AutoGuidance(auto_guidance_layers=[0], dropout=0.1),
            r"use guidance\.AutoGuidance",
        ),
        (guiders.LTX2Guidance, "no rule here does the same"),
    ],
)
def test_guiders_that_need_more_are_refused(guider: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"needs more than a conditional.*{message}"):
        from_guider(guider())


def test_every_guider_of_diffusers_is_known() -> None:
    """A new one must be looked at: it may need hooks without saying so."""
    shipped = {
        name
        for name, item in vars(guiders).items()
        if isinstance(item, type) and issubclass(item, BaseGuidance) and item is not BaseGuidance
    }
    used = {type(build()).__name__ for build in GUIDERS.values()}
    used |= {"MagnitudeAwareGuidance", "FrequencyDecoupledGuidance"}
    refused = {"AutoGuidance", "LTX2Guidance", "SkipLayerGuidance", "SmoothedEnergyGuidance"}
    assert shipped == used | refused | {"PerturbedAttentionGuidance"}


def test_other_objects_are_refused() -> None:
    for other in (CFG(5.0), None, guiders.ClassifierFreeGuidance):
        with pytest.raises(TypeError, match="expected an object of a class in"):
            from_guider(other)


def test_repr_is_short_and_there_is_no_json() -> None:
    rule = from_guider(guiders.ClassifierFreeGuidance(5.0)).between(0, 0.5)
    assert repr(rule) == "from_guider(ClassifierFreeGuidance).between(0.0, 0.5)"
    with pytest.raises(ValueError, match="has no JSON form; save the guider"):
        json.dumps((rule + Rescale(0.7)).to_config())
    with pytest.raises(ValueError, match="at most one rule may own the uncond direction"):
        rule + CFG(4.0)
