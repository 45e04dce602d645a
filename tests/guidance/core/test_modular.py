"""Rules as guiders: the same pictures in a modular pipeline as by ``guide`` in the ordinary one."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from diffusers.modular_pipelines.stable_diffusion_3 import StableDiffusion3AutoBlocks
from diffusers.modular_pipelines.stable_diffusion_xl import StableDiffusionXLAutoBlocks
from torch import Tensor

from guidance import (
    APG,
    CADS,
    CFG,
    PAG,
    AdaptiveGuidance,
    AutoGuidance,
    BoostAndSkip,
    CFGPlusPlus,
    CFGZeroStar,
    Direction,
    PerpNeg,
    Rescale,
    Rule,
    SkipLayers,
    Step,
    from_guider,
    guide,
    linear,
    prompt,
    to_guider,
)
from tests import tiny
from tests.tiny import close

BLOCKS = {"sdxl": StableDiffusionXLAutoBlocks, "sd3": StableDiffusion3AutoBlocks}

RULES: dict[str, Rule] = {
    "cfg": CFG(5.0),
    "none": CFG(1.0),
    "schedule": CFG(linear(2, 6)),
    "chain": CFG(5.0) + Rescale(0.7),
    "interval": CFG(5.0).between(0.25, 0.75),
    "x0 space, with momentum": APG(5.0, 0.2, 2.0, -0.5),
    "noise levels": CFGPlusPlus(0.6),
    "image by image": AdaptiveGuidance(CFG(5.0), 0.9998, min_steps=2),
}


def modular(name: str) -> Any:
    """The tiny pipeline, and a modular one of its parts."""
    pipe = tiny.FAMILIES[name]()
    made = BLOCKS[name]().init_pipeline()
    made.update_components(
        **{key: part for key, part in pipe.components.items() if key in made.component_names}
    )
    return pipe, made


def sample(made: Any, seed: int = 0) -> Any:
    """As ``tiny.sample`` calls the ordinary pipeline."""
    return made(
        prompt=[tiny.PROMPT, "blue owl"],
        negative_prompt=[tiny.NEGATIVE] * 2,
        generator=[torch.Generator().manual_seed(number) for number in range(2)],
        num_inference_steps=4,
        height=16,
        width=16,
        output_type="latent",
        output="images",
    )


@pytest.mark.parametrize("name", BLOCKS)
def test_draws_what_guide_draws(name: str) -> None:
    pipe, made = modular(name)
    for rule in RULES.values():
        made.update_components(guider=to_guider(rule, made.scheduler))
        calls = tiny.Rows(pipe)
        found = [sample(made) for _ in range(2)]
        spent = sum(calls.seen)
        calls.remove()
        with guide(pipe, rule) as run:
            expected = tiny.sample(pipe, batch=2)
        for each in found:
            close(each, expected)
        if not isinstance(rule, AdaptiveGuidance):  # which saves single images there
            assert spent == 2 * 2 * run.report.nfe
        else:
            assert spent <= 2 * 2 * 8


def test_a_flow_rule() -> None:
    pipe, made = modular("sd3")
    rule = CFGZeroStar(5.0, zero_steps=1)
    made.update_components(guider=to_guider(rule, made.scheduler))
    found = sample(made)
    with guide(pipe, rule):
        close(found, tiny.sample(pipe, batch=2))


def test_it_is_no_guider_of_ordinary_pipelines(sd: Any) -> None:
    with pytest.raises(ValueError, match="RuleGuider needs more than"):
        from_guider(to_guider(CFG(5.0), sd.scheduler))


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (CFG(4) + PAG(3, "mid"), "it needs perturbed("),
        (SkipLayers(3, "mid"), "it needs perturbed("),
        (AutoGuidance(2.0, torch.nn.Linear(1, 1)), "it needs "),
        (PerpNeg(("hat",)), "it changes more than how predictions are combined"),
        (CADS(), "it changes more than how predictions are combined"),
        (BoostAndSkip(), "it changes more than how predictions are combined"),
    ],
)
def test_rules_of_other_branches_are_refused(rule: Rule, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)) as error:
        to_guider(rule, None)
    assert str(error.value).startswith(f"{rule!r} cannot be the guider of a modular pipeline")
    assert str(error.value).endswith("write guide(pipe, rule) with an ordinary pipeline")
    assert "\n" not in str(error.value)


class _Late(Direction):
    """Asks for a prompt that it has not announced."""

    def guide(self, step: Step) -> Tensor:
        return step.evaluate(prompt("a hat"))


def test_what_shows_only_in_a_run_is_refused_there() -> None:
    _, made = modular("sdxl")
    made.update_components(guider=to_guider(_Late(), made.scheduler))
    with pytest.raises(ValueError, match=r"because it needs prompt\(text='a hat'\): write guide"):
        sample(made)


def test_no_rule() -> None:
    with pytest.raises(TypeError, match=r"to_guider: expected a rule such as CFG\(6.0\), found 5"):
        to_guider(5, None)  # type: ignore[arg-type]
