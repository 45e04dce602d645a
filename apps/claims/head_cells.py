"""Cells of the claims about attention heads that a search finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apps.claims.cells import Cell, Material, short
from apps.claims.heads import OBJECTIVES, K, Search
from apps.claims.measure import Bench
from apps.claims.store import Measured
from guidance import Rule, SoftPAG

SCALE = 3.0
"""Of softened heads and layers, in searches and in cells."""


def unsoftened(model: str, name: str, rule: str, steps: int = 20) -> Cell:
    """What softened heads and layers are compared with."""
    return Cell(
        name=f"heads-{short(model)}-{name}",
        claim=f"heads-{short(model)}",
        rule=rule,
        model=model,
        prompts="untextured",
        steps=steps,
        series=name,
        measures=tuple(OBJECTIVES),
    )


def layer(model: str, objective: str) -> Cell:
    """The whole layer that serves an objective best on the pictures of the search."""

    def make(material: Material) -> Rule:
        return SoftPAG(SCALE, Search(material, model, objective, SCALE).best_layer())

    return Cell(
        name=f"heads-{short(model)}-layer-{objective}",
        claim=f"heads-{short(model)}",
        rule=f"SoftPAG({SCALE:g}, the layer found for {objective})",
        model=model,
        prompts="untextured",
        baseline=f"heads-{short(model)}-none",
        series=f"layer for {objective}",
        make=make,
        measures=tuple(OBJECTIVES),
    )


def heads(model: str, objective: str) -> Cell:
    """The heads that serve an objective best on the pictures of the search."""

    def make(material: Material) -> Rule:
        return SoftPAG(SCALE, Search(material, model, objective, SCALE).heads())

    def tell(bench: Bench, measured: Measured) -> Mapping[str, Any]:
        weights = measured.settings["weights"]
        material = Material(None, (), weights, bench.store.folder)
        return {"search": Search(material, model, objective, SCALE).told()}

    return Cell(
        name=f"heads-{short(model)}-heads-{objective}",
        claim=f"heads-{short(model)}",
        rule=f"SoftPAG({SCALE:g}, up to {K} heads found for {objective})",
        model=model,
        prompts="untextured",
        baseline=f"heads-{short(model)}-layer-{objective}",
        series=f"heads for {objective}",
        beside=tell,
        make=make,
        measures=tuple(OBJECTIVES),
    )
