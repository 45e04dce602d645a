"""Stacks of rules to start from."""

from __future__ import annotations

from typing import Any


def _rule(name: str, between: tuple[float, float] = (0.0, 1.0), **settings: Any) -> dict[str, Any]:
    return {"rule": name, "settings": settings, "between": list(between)}


PRESETS: dict[str, list[dict[str, Any]]] = {
    "No guidance": [],
    "CFG 4": [_rule("CFG", scale=4.0)],
    "CFG 8": [_rule("CFG", scale=8.0)],
    "CFG 8, rescaled": [_rule("CFG", scale=8.0), _rule("Rescale", phi=0.7)],
    "CFG 4 in the middle of the run": [_rule("CFG", (0.2, 0.8), scale=4.0)],
    "CFG rising from 1 to 8": [
        _rule("CFG", scale={"schedule": "cosine", "start": 1.0, "stop": 8.0})
    ],
    "APG 8": [_rule("APG", scale=8.0, norm_threshold=2.0)],
    "CFG-Zero* 4": [_rule("CFGZeroStar", scale=4.0, zero_steps=0)],
    "CFG 4 that stops when it can": [_rule("AdaptiveGuidance", rule_or_scale=4.0, threshold=0.99)],
    "CFG 4, more varied (CADS)": [_rule("CFG", scale=4.0), _rule("CADS", strength=1.0)],
    "CFG 3 with a weaker model": [_rule("CFG", scale=3.0), _rule("AutoGuidance", scale=2.0)],
    "CFG 4 with softened heads": [_rule("CFG", scale=4.0), _rule("SoftPAG", scale=3.0)],
    "Not red, by PerpNeg": [_rule("PerpNeg", negatives=[["red", 1.0]], scale=4.0)],
}
START = "CFG 4"
"""What the form shows first."""
