"""The claims about guidance rules, in the order in which their cells are measured."""

from __future__ import annotations

from apps.claims.estimates import MEASURES
from apps.claims.figures import draw_figures
from apps.claims.guidance_cells import (
    BASELINE,
    adaptive,
    autoguided,
    fewer,
    linear,
    negative,
    positive,
    savings,
    settings,
    softened,
    unsoftened,
)
from apps.claims.suite import Suite

UP, FOURTH = "up_blocks.0", "transformer_blocks.4"
"""Layers whose softening acts on emblem-unet, where it hardly does at the default ``mid``, and
those before the default, last one on emblem-dit."""

CELLS = (
    BASELINE,
    settings("cfg-1", "CFG(1)"),
    settings("cfg-7", "CFG(7)"),
    settings("interval-25-steps", "CFG(4).between(0.2, 0.8)", steps=25),
    settings("rescale", "CFG(4) + Rescale(0.7)"),
    fewer(15),
    adaptive(0.99),
    negative("unsaid", 4),
    negative("unsaid", 4, 1),
    positive("unsaid"),
    unsoftened(),
    softened(3, 1),
    softened(3, 0.5),
    autoguided("auto-guidance", 2),
    autoguided("cfg-auto-guidance", 2, 3),
    negative("unsaid", 4, 0.5),
    negative("unsaid", 2),
    softened(3, 1, heads=UP),
    softened(3, 0.5, heads=UP),
    unsoftened(model="emblem-dit"),
    softened(3, 1, heads=FOURTH, model="emblem-dit"),
    softened(3, 0.5, heads=FOURTH, model="emblem-dit"),
    linear(200),
    settings("cads", "CFG(4) + CADS()"),
    settings("zero-star", "CFGZeroStar(4, zero_steps=0)"),
    settings("cfg-plus-plus", "CFGPlusPlus(0.6)"),
    settings("apg-7", "APG(7, norm_threshold=0.94)"),
    softened(3, 1, model="emblem-dit"),
    softened(3, 0.5, model="emblem-dit"),
    negative("unsaid", 4, 0.25),
    softened(3, 1, heads=UP, guided=4),
    savings("first-half", "CFG(4).between(0, 0.5)", "CFG, then none", {"until": 0.5}),
    adaptive(0.97),
    fewer(13),
    autoguided("cfg-auto-guidance-13-steps", 2, 3, steps=13),
    settings("cfg-30-steps", "CFG(4)", steps=30),
    softened(3, 0.25, heads=UP),
    softened(1, 1, heads=UP),
    softened(6, 1, heads=UP),
    negative("unsaid", 1.5),
    adaptive(0.998),
    fewer(10),
    positive("conflict"),
    negative("conflict", 4),
    negative("conflict", 4, 1),
    softened(3, 0.5, heads=UP, guided=4),
    softened(6, 0.5, heads=UP),
    softened(1, 0.5, heads=UP),
    settings("apg-7-loose", "APG(7, norm_threshold=5)"),
    softened(3, 0.25, heads=FOURTH, model="emblem-dit"),
    unsoftened(guided=4, model="emblem-dit"),
    softened(3, 1, heads=FOURTH, guided=4, model="emblem-dit"),
    negative("conflict", 4, 0.25),
    autoguided("auto-guidance-3", 3),
    softened(3, 0.75, heads=UP),
    softened(6, 0.25, heads=UP),
    softened(1, 0.25, heads=UP),
    settings("cads-7", "CFG(7) + CADS()"),
    softened(3, 0.75, heads=FOURTH, model="emblem-dit"),
)

_PICTURED = (
    "soft-pag-unet-none",
    "soft-pag-unet-3-1",
    f"soft-pag-unet-{UP}-3-0.5",
    f"soft-pag-unet-{UP}-3-1",
    "soft-pag-dit-none",
    "soft-pag-dit-3-0.5",
    "soft-pag-dit-3-1",
    f"soft-pag-dit-{FOURTH}-3-0.5",
    f"soft-pag-dit-{FOURTH}-3-1",
)

SUITE = Suite(
    name="guidance",
    cells=CELLS,
    measures=MEASURES,
    draw=draw_figures,
    grids={"claims-softpag.png": _PICTURED},
)
