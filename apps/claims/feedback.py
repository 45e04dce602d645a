"""The claims about rules that listen to networks, in the order in which cells are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apps.claims.cells import Cell, short
from apps.claims.class_cells import CLASSIFIER, TEXTURES, WEAK, classes
from apps.claims.estimates import MEASURES
from apps.claims.extras import MORE
from apps.claims.feedback_figures import draw_figures
from apps.claims.head_cells import heads, layer, unsoftened
from apps.claims.heads import OBJECTIVES
from apps.claims.minority_cells import minority, plain, scored
from apps.claims.scale_cells import SCALES, dynamic, schedules, static
from apps.claims.suite import Suite

UNET, DIT = "emblem-unet", "emblem-dit"

HEADS = tuple(
    cell
    for model in (UNET, DIT)
    for cell in (
        unsoftened(model, "none", "CFG(1)", 40),
        *(find(model, objective) for objective in OBJECTIVES for find in (layer, heads)),
        unsoftened(model, "cfg-4", "CFG(4)"),
        unsoftened(model, "none-20-steps", "CFG(1)"),
    )
)

CURVES = ((UNET, "pairs", 4), (DIT, "full", 7), (DIT, "pairs", 7))
"""Models, prompts that they do not always get right, and a scale that suits both."""

STATIC = tuple(
    cell
    for model, prompts, mean in CURVES
    for cell in (
        *(static(model, prompts, scale) for scale in SCALES),
        *schedules(model, prompts, mean),
    )
)

JUDGES = (
    ("saturation",),
    ("agreement",),
    ("alignment",),
    ("reward",),
    ("discriminator",),
    ("alignment", "discriminator"),
    ("alignment", "discriminator", "reward"),
)

DYNAMIC = tuple(dynamic(*curve, judges) for curve in CURVES for judges in JUDGES)

GFCG = f"GradientFreeClassifierGuidance(3, {CLASSIFIER})"
AUTO = f"AutoGuidance(2, {WEAK!r})"

CLASSES = (
    classes(UNET, "none", "CFG(1)", 40),
    classes(UNET, "cfg-4", "CFG(4)", 20),
    classes(UNET, "auto", AUTO, 20, WEAK),
    classes(UNET, "gfcg", GFCG, 32, TEXTURES, baseline="classes-unet-none"),
    classes(UNET, "cfg-gfcg", f"CFG(4) + {GFCG}", 17, TEXTURES, baseline="classes-unet-cfg-4"),
    classes(
        UNET,
        "auto-gfcg",
        f"{GFCG[:-1]}, auto={AUTO})",
        20,
        TEXTURES,
        WEAK,
        baseline="classes-unet-auto",
    ),
    classes(DIT, "gfcg", GFCG, 32, TEXTURES, baseline="scales-dit-full-1"),
    classes(DIT, "cfg-gfcg", f"CFG(4) + {GFCG}", 17, TEXTURES, baseline="scales-dit-full-4"),
)

RARER = {
    "BoostAndSkip({})": (1.1, 1.3),
    "SelfGuidedMinority({}, level=0.3, every=1)": (0.3, 1),
}
PROMPTED = {"MinorityPrompt(10, {})": (0.01, 0.03, 0.1)}
"""Rules for rare pictures with their strengths; those that need a prompt."""


def _minority(model: str, prompts: str, more: Mapping[str, Sequence[float]]) -> tuple[Cell, ...]:
    classifier = f"emblem-evaluators/minority-{short(model)}"
    trained = {f"MinorityGuidance({{}}, {classifier!r})": (2, 6)}
    rules: Mapping[str, Sequence[float]] = {**RARER, **trained, **more}
    return (
        plain(model, prompts),
        *(
            minority(model, prompts, rule, strength, *[classifier] * (classifier in rule))
            for rule, strengths in rules.items()
            for strength in strengths
        ),
    )


MINORITY = (
    *_minority(UNET, "empty", {}),
    *_minority(DIT, "empty", {}),
    *_minority(UNET, "shape", PROMPTED),
)

SCORES = (
    *(scored(model, level) for model in (UNET, DIT) for level in (0.1, 0.2, 0.4, 0.6, 0.8, 0.95)),
    *(scored(UNET, level, decoded=True) for level in (0.1, 0.2, 0.4)),
)

CELLS = (*HEADS, *STATIC, *SCORES, *MINORITY, *CLASSES, *DYNAMIC)

SUITE = Suite(
    name="feedback",
    cells=CELLS,
    measures={name: text for name, text in (MEASURES | MORE).items() if name != "leakage"},
    draw=draw_figures,
)
