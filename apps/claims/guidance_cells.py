"""Cells of the claims about guidance rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from apps.claims.cells import Cell, Material
from apps.claims.requests import draw_requests
from apps.claims.settings import EACH
from apps.shipped import shipped
from guidance import CFG, AutoGuidance, LinearAG, PerpNeg, Rule, fit_linear_ag

BASELINE = Cell(name="cfg-4", claim="settings", rule="CFG(4)")
WEAK = "emblem-unet-weak"


def settings(name: str, rule: str, **changes: Any) -> Cell:
    """A cell of the table of rules, with all but a few settings of the baseline."""
    return replace(BASELINE, name=name, rule=rule, baseline=BASELINE.name, **changes)


def fewer(steps: int) -> Cell:
    """The baseline with fewer steps, what every saving has to beat."""
    name = f"cfg-{steps}-steps"
    return savings(name, "CFG(4)", "CFG, fewer steps", {"steps": steps}, steps=steps)


def savings(name: str, rule: str, series: str, knobs: Mapping[str, float], **changes: Any) -> Cell:
    """A cell that is to give the baseline's pictures for fewer evaluations."""
    return settings(name, rule, claim="savings", series=series, knobs=knobs, **changes)


def adaptive(threshold: float) -> Cell:
    """The baseline until the predictions of x0 agree."""
    rule = f"AdaptiveGuidance(4, {threshold:g})"
    knobs = {"threshold": threshold}
    return savings(f"adaptive-{threshold:g}", rule, "AdaptiveGuidance", knobs)


def autoguided(name: str, scale: float, guided: float | None = None, **changes: Any) -> Cell:
    """Guidance by the weak checkpoint, alone or together with CFG."""

    def make(material: Material) -> Rule:
        auto = AutoGuidance(scale, str(shipped(WEAK)))
        return auto if guided is None else CFG(guided) + auto

    text = f"AutoGuidance({scale:g}, {WEAK!r})"
    return settings(
        name, text if guided is None else f"CFG({guided:g}) + {text}", make=make, **changes
    )


def positive(prompts: str) -> Cell:
    """The requests without their negatives."""
    name = f"{prompts}-none"
    return Cell(name=name, claim="negatives", rule="CFG(4)", prompts=prompts, series="no negative")


def linear(images: int) -> Cell:
    """LinearAG, fitted on other prompts and noise before its first batch."""

    def make(material: Material) -> Rule:
        path = material.work / f"linear-ag-{material.weights}-{images}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            prompts = [request.prompt for request in draw_requests("pairs", EACH * images, 1000)]
            noise = torch.Generator().manual_seed(2**32)
            fit_linear_ag(
                material.pipe, prompts[::EACH], 4.0, BASELINE.steps, path, generator=noise
            )
        return LinearAG(4.0, str(path))

    return savings(
        "linear-ag", f"LinearAG(4, fitted on {images} prompts)", "LinearAG", {}, make=make
    )


def negative(prompts: str, scale: float, weight: float | None = None) -> Cell:
    """The requests' negatives by PerpNeg, or as the pipeline's own negative prompts."""
    if weight is None:
        return Cell(
            name=f"{prompts}-negative-{scale:g}",
            claim="negatives",
            rule=f"CFG({scale:g})",
            prompts=prompts,
            negative=True,
            series="negative prompt",
            knobs={"scale": scale},
        )

    def make(material: Material) -> Rule:
        return PerpNeg((material.negatives,), weight, scale)

    return Cell(
        name=f"{prompts}-perp-neg-{scale:g}-{weight:g}",
        claim="negatives",
        rule=f"PerpNeg(negatives, {weight:g}, {scale:g})",
        prompts=prompts,
        baseline=f"{prompts}-negative-{scale:g}",
        series="PerpNeg",
        knobs={"scale": scale, "weight": weight},
        make=make,
    )


def softened(
    scale: float,
    strength: float,
    *,
    heads: str | None = None,
    guided: float | None = None,
    model: str = "emblem-unet",
) -> Cell:
    """Soft perturbed attention without a prompt, or beside CFG with one."""
    kind = f"soft-pag-{model.removeprefix('emblem-')}" + ("" if guided is None else "-prompted")
    where = "" if heads is None else f", {heads!r}"
    rule = f"SoftPAG({scale:g}{where}, strength={strength:g})"
    place = "default layers" if heads is None else heads
    return Cell(
        name="-".join([kind, *([] if heads is None else [heads]), f"{scale:g}", f"{strength:g}"]),
        claim=kind,
        rule=rule if guided is None else f"CFG({guided:g}) + {rule}",
        model=model,
        prompts="empty" if guided is None else "pairs",
        baseline=BASELINE.name if kind == "soft-pag-unet-prompted" else f"{kind}-none",
        series=f"scale {scale:g}, {place}",
        knobs={"strength": strength},
    )


def unsoftened(guided: float | None = None, model: str = "emblem-unet") -> Cell:
    """What soft perturbed attention is compared with."""
    kind = f"soft-pag-{model.removeprefix('emblem-')}" + ("" if guided is None else "-prompted")
    return Cell(
        name=f"{kind}-none",
        claim=kind,
        rule=f"CFG({guided or 1:g})",
        model=model,
        prompts="empty" if guided is None else "pairs",
    )
