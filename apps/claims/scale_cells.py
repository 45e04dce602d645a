"""Cells of the claims about scales that evaluators choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from apps.claims.cells import Cell, short
from apps.claims.measure import Bench
from apps.claims.requests import likelihood
from apps.claims.settings import EACH
from apps.claims.store import Measured

SCALES = (1, 2, 3, 4, 5, 7, 10)
"""Of the static curve, and candidates of dynamic guidance."""

EQUAL = 40
"""Evaluations of a picture; a rule that needs fewer a step gets more steps."""

EVALUATORS = {
    "saturation": "Saturation()",
    "agreement": "Agreement()",
    "alignment": "Alignment('emblem-evaluators/alignment')",
    "reward": "Reward('emblem-evaluators/reward')",
    "discriminator": "Discriminator('emblem-evaluators/discriminator-{}')",
}
"""Who may choose, with the name of the model in place of the braces."""


def _cell(model: str, prompts: str, name: str, **changes: Any) -> Cell:
    claim = f"scales-{short(model)}-{prompts}"
    return Cell(name=f"{claim}-{name}", claim=claim, model=model, prompts=prompts, **changes)


def static(model: str, prompts: str, scale: float) -> Cell:
    """One scale throughout."""
    rule, knobs = f"CFG({scale:g})", {"scale": scale}
    steps = EQUAL if scale == 1 else EQUAL // 2
    return _cell(model, prompts, f"{scale:g}", rule=rule, steps=steps, series="static", knobs=knobs)


def schedules(model: str, prompts: str, mean: float) -> tuple[Cell, ...]:
    """Scales that follow the run alone, of about the same mean."""
    top = 2 * mean - 1
    rules = {
        "linear-up": f"CFG(linear(1, {top:g}))",
        "linear-down": f"CFG(linear({top:g}, 1))",
        "cosine-up": f"CFG(cosine(1, {top:g}))",
        "clamped-up": f"CFG(piecewise(((0.25, {mean / 2:g}), (1, {2 * mean:g}))))",
    }
    interval = f"CFG({mean:g}).between(0.2, 0.8)"
    return (
        *(
            _cell(model, prompts, name, rule=rule, series=name.replace("-", " "))
            for name, rule in rules.items()
        ),
        _cell(model, prompts, "interval", rule=interval, steps=25, series="interval"),
    )


def dynamic(model: str, prompts: str, mean: float, judges: Sequence[str]) -> Cell:
    """Scales that evaluators choose anew at every step, picture by picture."""
    texts = [EVALUATORS[judge].format(short(model)) for judge in judges]
    evaluators = texts[0] if len(texts) == 1 else f"({', '.join(texts)})"
    scales = ", ".join(f"{scale:g}" for scale in SCALES)
    rule = f"DynamicCFG(({scales}), {evaluators}, default={mean:g})"
    networks = tuple(text.split("'")[1] for text in texts if "'" in text)
    return _cell(
        model,
        prompts,
        f"dynamic-{'-'.join(judges)}",
        rule=rule,
        baseline=f"scales-{short(model)}-{prompts}-{mean:g}",
        series=f"dynamic: {', '.join(judges)}",
        networks=networks,
        beside=partial(_scales, static(model, prompts, 1)),
    )


def _scales(unguided: Cell, bench: Bench, measured: Measured) -> Mapping[str, Any]:
    """Mean scale at every step over groups of prompts, and how far single pictures spread.

    Rare and common are the quarters of the prompts that the world shows least and most often; easy
    ones are right in all pictures without guidance, hard ones in none.
    """
    scales = measured.scales
    assert scales is not None
    requests = bench.requests(unguided.prompts)
    often = torch.tensor([likelihood(request) for request in requests[::EACH]])
    order, quarter = often.argsort(), len(often) // 4
    groups = {"rare": order[:quarter], "common": order[-quarter:]}
    if plain := bench.find(unguided):
        right = plain.values["accuracy"].view(-1, EACH).sum(1)
        groups |= {"easy": (right == EACH).nonzero()[:, 0], "hard": (right == 0).nonzero()[:, 0]}
    of_requests = scales.view(len(often), EACH, -1)
    means = {name: of_requests[rows].flatten(0, 1).nanmean(0) for name, rows in groups.items()}
    bounds = torch.tensor([0.1, 0.5, 0.9], dtype=scales.dtype)
    low, middle, high = scales.nanquantile(bounds, dim=0)
    found: dict[str, Tensor] = {"all": scales.nanmean(0), **means}
    found |= {"10 %": low, "median": middle, "90 %": high}
    return {
        "scales": {
            name: [round(value, 4) for value in line.tolist()] for name, line in found.items()
        },
        "prompts_in": {name: len(rows) for name, rows in groups.items()},
    }
