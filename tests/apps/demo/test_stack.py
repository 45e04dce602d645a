"""Rules from forms: the same as written in Python, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from apps.demo.controls import offers
from apps.demo.forms import RuleItem, StackForm, checked
from apps.demo.model import Model
from apps.demo.presets import PRESETS
from apps.demo.stack import build
from apps.shipped import shipped
from guidance import (
    APG,
    CFG,
    AutoGuidance,
    DynamicCFG,
    PerpNeg,
    Rescale,
    Rule,
    Saturation,
    SkipLayers,
    SoftPAG,
    cosine,
)
from guidance.registry import METHODS

HEAD = "up_blocks.0.attentions.0.transformer_blocks.0.attn1"


def made(model: Model, *items: dict[str, Any]) -> Rule | None:
    return build(checked(StackForm, {"stack": list(items)}).stack, model)


@pytest.mark.parametrize(
    ("items", "rule"),
    [
        ([], None),
        ([{"rule": "CFG", "settings": {"scale": 6}}], CFG(6.0)),
        ([{"rule": "CFG", "settings": {"scale": None}}], CFG()),
        (
            [{"rule": "CFG", "settings": {"scale": 6}}, {"rule": "Rescale"}],
            CFG(6.0) + Rescale(),
        ),
        ([{"rule": "APG", "settings": {"scale": 8, "momentum": -0.2}}], APG(8, momentum=-0.2)),
        (
            [{"rule": "CFG", "settings": {"scale": 6}, "between": [0.2, 0.8]}],
            CFG(6.0).between(0.2, 0.8),
        ),
        (
            [{"rule": "CFG", "settings": {"scale": {"schedule": "cosine", "start": 2, "stop": 9}}}],
            CFG(cosine(2, 9)),
        ),
        (
            [{"rule": "PerpNeg", "settings": {"negatives": [["red", 1], ["a star", 0.5]]}}],
            PerpNeg(("red", "a star"), (1.0, 0.5), scale=4.0),
        ),
        (
            [{"rule": "SoftPAG", "settings": {"heads": [f"{HEAD}:1"]}}],
            SoftPAG(heads=(f"{HEAD}:1",)),
        ),
        ([{"rule": "SkipLayers", "settings": {"layers": []}}], SkipLayers()),
        ([{"rule": "DynamicCFG"}], DynamicCFG((1, 2, 4, 8), Saturation())),
        (
            [{"rule": "AutoGuidance"}],
            AutoGuidance(2.0, str(shipped("emblem-unet-weak"))),
        ),
    ],
)
def test_a_stack_is_the_rule_that_python_would_write(
    unet: Model, items: list[dict[str, Any]], rule: Rule | None
) -> None:
    found = made(unet, *items)
    assert repr(found) == repr(rule)
    assert found == rule


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"rule": "LinearAG"}, "rule must be one of CFG"),
        ({"rule": "Chain"}, "rule must be one of"),
        ({"rule": "CFG", "settings": {"weak": 1}}, "CFG has no setting 'weak'"),
        ({"rule": "CFG", "settings": {"scale": "6"}}, "CFG: scale must be a number, found '6'"),
        ({"rule": "CFG", "settings": {"scale": True}}, "CFG: scale must be a number"),
        ({"rule": "CFG", "settings": {"scale": float("inf")}}, "CFG: scale must be a number"),
        ({"rule": "CFG", "settings": {"scale": -1}}, "CFG: scale must be a finite number from 0"),
        (
            {"rule": "CFG", "settings": {"scale": {"schedule": "table"}}},
            "scale must be a number, or",
        ),
        (
            {
                "rule": "CFG",
                "settings": {"scale": {"schedule": "linear", "start": 1, "stop": None}},
            },
            "needs both",
        ),
        ({"rule": "CFG", "between": [0.8, 0.2]}, "must rise"),
        ({"rule": "CFG", "between": [0, 2]}, "less than or equal to 1"),
        ({"rule": "CFG", "between": [0]}, "stack 1 between"),
        ({"rule": "CFG", "path": "/etc/passwd"}, "stack 1 path: extra inputs"),
        ({"rule": "CADS", "settings": {"seed": 1.5}}, "CADS: seed must be a whole number"),
        ({"rule": "DynamicCFG", "settings": {"scales": []}}, "a list of 1 to 16"),
        ({"rule": "DynamicCFG", "settings": {"adaptive": 1}}, "must be true or false"),
        ({"rule": "DynamicCFG", "settings": {"normalisation": "x"}}, "must be one of minmax"),
        ({"rule": "SoftPAG", "settings": {"heads": ["/etc/passwd"]}}, "has no layer or head"),
        ({"rule": "SoftPAG", "settings": {"heads": [f"{HEAD}:99"]}}, "has no layer or head"),
        ({"rule": "SoftPAG", "settings": {"heads": "mid.json"}}, "must be a list"),
        ({"rule": "AutoGuidance", "settings": {"weak": "/etc"}}, "weak must be one of emblem"),
        ({"rule": "MinorityPrompt", "settings": {"iterations": 1000}}, "at most 20 here"),
        ({"rule": "MinorityPrompt", "settings": {"word": "x" * 300}}, "at most 200 characters"),
        ({"rule": "PerpNeg"}, "write what the pictures should not show"),
        ({"rule": "PerpNeg", "settings": {"negatives": ["red"]}}, "texts with weights"),
    ],
)
def test_anything_else_is_refused_in_one_line(
    unet: Model, item: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as refusal:
        made(unet, item)
    assert "\n" not in str(refusal.value)


def test_a_stack_has_a_limit(unet: Model) -> None:
    with pytest.raises(ValueError, match="at most 6"):
        made(unet, *[{"rule": "Rescale"}] * 7)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_built(unet: Model, name: str) -> None:
    rule = build([RuleItem(**item) for item in PRESETS[name]], unet)
    assert (rule is None) == (name == "No guidance")


def test_every_method_is_offered_or_left_out_knowingly() -> None:
    left_out = {method.name for method in METHODS} - offers().keys()
    assert left_out == {
        "ClassifierGuidance",
        "GradientFreeClassifierGuidance",
        "LinearAG",
        "LossGuidance",
    }


@pytest.mark.parametrize("name", offers())
def test_every_setting_says_what_it_is_and_no_setting_is_a_path(unet: Model, name: str) -> None:
    for control in offers()[name].controls:
        assert control.help, control
        with pytest.raises((ValueError, TypeError)):
            made(unet, {"rule": name, "settings": {control.name: {"path": "/etc/passwd"}}})


@pytest.mark.parametrize("name", [name for name in offers() if name != "PerpNeg"])
def test_defaults_can_be_built(unet: Model, name: str) -> None:
    assert type(made(unet, {"rule": name})).__name__ == name
