"""Every rule on both shipped models: from the command line and from Python, the same pictures."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from apps.cli import app
from apps.generate import Call, Job, generate
from apps.pipelines import find_model, load_pipeline
from apps.shipped import shipped
from guidance import fit_linear_ag, guide, parse_rule
from guidance.registry import METHODS

STEPS = 4
MODELS = ("unet", "dit")
JOB = Job("a large striped red star on a blue background", 3)
BY_NAME = "emblem-evaluators/"
"""How rules name the evaluators that come along."""

RULES = {
    "CFG": "CFG(4)",
    "Rescale": "CFG(4) + Rescale(0.7)",
    "APG": "APG(8)",
    "CFGZeroStar": "CFGZeroStar(4, 0)",
    "CFGPlusPlus": "CFGPlusPlus(0.6)",
    "DynamicCFG": f"DynamicCFG((4, 8), Alignment('{BY_NAME}alignment'))",
    "DynamicThreshold": "CFG(8) + DynamicThreshold(0.9, 0.5)",
    "PerpNeg": "PerpNeg(('red',), 2, 4)",
    "SoftPAG": "SoftPAG(3, strength=0.5)",
    "PAG": "CFG(4) + PAG(3)",
    "SEG": "SEG(3)",
    "SkipLayers": "SkipLayers(2.8)",
    "AutoGuidance": "AutoGuidance(2, 'emblem-unet-weak')",
    "GradientFreeClassifierGuidance": (
        f"CFG(4) + GradientFreeClassifierGuidance(3, LatentClassifier('{BY_NAME}classifier'))"
    ),
    "ClassifierGuidance": f"ClassifierGuidance(5, LatentClassifier('{BY_NAME}classifier'), 1)",
    "LossGuidance": f"LossGuidance(0.5, Alignment('{BY_NAME}alignment'), normalised=True)",
    "MinorityGuidance": f"MinorityGuidance(3, '{BY_NAME}minority-{{model}}')",
    "SelfGuidedMinority": "CFG(4) + SelfGuidedMinority(1)",
    "MinorityPrompt": "CFG(4) + MinorityPrompt(2, until=0.5)",
    "BoostAndSkip": "CFG(4) + BoostAndSkip(1.3)",
    "CADS": "CFG(4) + CADS()",
    "AdaptiveGuidance": "AdaptiveGuidance(4, -1, min_steps=2)",
    "LinearAG": "LinearAG(4, '{fit}')",
}
WEAK_DIT = "AutoGuidance(2, ('transformer_blocks.3',))"
"""Only the UNet comes with a weaker version of itself."""


@cache
def pipeline(model: str) -> Any:
    return load_pipeline(find_model(f"emblem-{model}"), device="cpu", dtype="float32")


@cache
def plain(model: str) -> np.ndarray:
    return drawn(model, None)


def drawn(model: str, rule: str | None) -> np.ndarray:
    """The picture of the job from Python."""
    pipe = pipeline(model)
    for folder in ("classifier", "alignment", f"minority-{model}"):
        rule = rule and rule.replace(BY_NAME + folder, str(shipped(BY_NAME + folder)))
    rule = rule and rule.replace("'emblem-unet-weak'", repr(str(shipped("emblem-unet-weak"))))
    call = Call(steps=STEPS, guided=rule is not None)
    if rule is None:
        (image,) = generate(pipe, [JOB], call)
    else:
        with guide(pipe, parse_rule(rule)):
            (image,) = generate(pipe, [JOB], call)
    return np.asarray(image)


def test_every_registered_rule_is_tried() -> None:
    assert RULES.keys() == {method.name for method in METHODS}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", RULES)
def test_every_rule_draws(name: str, model: str, tmp_path: Path) -> None:
    rule = WEAK_DIT if (name, model) == ("AutoGuidance", "dit") else RULES[name]
    rule = rule.format(model=model, fit=tmp_path / "fit.json")
    if name == "LinearAG":
        fit_linear_ag(
            pipeline(model),
            ["a red star", "a blue ring"],
            scale=4,
            steps=STEPS,
            path=tmp_path / "fit.json",
        )
    given = ["--guidance", rule, "--model", f"emblem-{model}", "--steps", STEPS, "--num-images", 1]
    given += ["--seed", JOB.seed, "--out", tmp_path / "made", "--device", "cpu"]
    result = CliRunner().invoke(app, ["sample", JOB.prompt, *map(str, given)])
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "made" / f"000-{JOB.seed}.png") as image:
        told, picture = str(image.text["diffusteer"]), np.asarray(image)  # type: ignore[attr-defined]
    assert (picture == drawn(model, rule)).all()
    assert (picture != plain(model)).any()
    assert str(shipped("emblem-clip").parent) not in told
    assert str(shipped("emblem-clip").parent) not in (tmp_path / "made/report.json").read_text()
