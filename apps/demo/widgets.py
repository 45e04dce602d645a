"""Parts of the page that Gradio does not have; each is a small script beside its style."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from apps.demo.controls import offers
from apps.demo.model import Model
from apps.demo.presets import PRESETS, START

STATIC = Path(__file__).parent / "static"
NO_GAINS = "{}"
"""Of the map: JSON text, as the page does not see what Gradio changes within an object."""


def rule_stack(model: Model) -> gr.HTML:
    """Cards of guidance rules to add, remove, reorder and set; the value is a list of items."""
    return gr.HTML(
        PRESETS[START],
        html_template='<div class="rules"></div>',
        js_on_load=(STATIC / "rules.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        offers={name: offer.to_dict() for name, offer in offers().items()},
        presets=PRESETS,
        **stack_choices(model),
    )


def stack_choices(model: Model) -> dict[str, Any]:
    """What the cards must know of a model."""
    return {"layers": [*model.layers], "weak": [*model.weak]}


def head_map(model: Model) -> gr.HTML:
    """Layers by heads, each head a button; the value is a list of ``LAYER:HEAD``."""
    return gr.HTML(
        usual_heads(model),
        html_template='<div class="heads"></div>',
        js_on_load=(STATIC / "heads.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        gains=NO_GAINS,
        **map_choices(model),
    )


def map_choices(model: Model) -> dict[str, Any]:
    """What the map must know of a model."""
    return {"layers": model.layers, "standard": model.inspection.softened}


def usual_heads(model: Model) -> list[str]:
    """The heads that SoftPAG softens by default."""
    softened = model.inspection.softened
    return [f"{layer}:{head}" for layer in softened for head in range(model.layers[layer])]
