"""Cells of the claims about gradient-free classifier guidance."""

from __future__ import annotations

from typing import Any

from apps.claims.cells import Cell, short

TEXTURES = "emblem-evaluators/classifier"
"""Tells the texture of a prediction of x0."""

WEAK = "emblem-unet-weak"

CLASSIFIER = f"LatentClassifier({TEXTURES!r})"


def classes(model: str, name: str, rule: str, steps: int, *networks: str, **changes: Any) -> Cell:
    """One emblem in full, guided by a rule that may use networks."""
    return Cell(
        name=f"classes-{short(model)}-{name}",
        claim=f"classes-{short(model)}",
        rule=rule,
        model=model,
        prompts="full",
        steps=steps,
        networks=networks,
        **changes,
    )
