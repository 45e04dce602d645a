"""The parts of the benchmark of guidance, each of which makes rows about one model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import diffusers
from torch import Tensor

from apps.bench.memory import BATCH, RULE, peak_memory
from apps.bench.models import Subject, subject
from apps.bench.results import Row
from apps.bench.settings import BenchSettings
from apps.bench.timing import paired
from guidance import (
    APG,
    CFG,
    PAG,
    SEG,
    AdaptiveGuidance,
    CFGPlusPlus,
    CFGZeroStar,
    PerpNeg,
    Rescale,
    Rule,
    SoftPAG,
    guide,
)

OnStep = Callable[[], None]

TRAINED = "emblem-unet"

BARS = {TRAINED: 1.02}
"""Most that CFG may take of the time of the pipeline's own; 1.01 for other models."""

OFF: dict[str, Rule] = {
    "CFG at scale 1": CFG(1.0),
    "APG at scale 1": APG(1.0),
    "CFGZeroStar at scale 1": CFGZeroStar(1.0),
    "AdaptiveGuidance at scale 1": AdaptiveGuidance(1.0),
    "PerpNeg without weight at scale 1": PerpNeg(["a ring"], 0.0, 1.0),
    "PAG at scale 0": PAG(0.0),
    "SoftPAG at scale 0": SoftPAG(0.0),
    "SoftPAG at strength 0": SoftPAG(3.0, strength=0.0),
    "SEG at scale 0": SEG(0.0),
    "SEG at blur 0": SEG(3.0, blur=0.0),
    "Rescale": Rescale(0.7),
}
ON: tuple[Rule, ...] = (
    CFG(5.0),
    APG(5.0),
    CFGZeroStar(5.0),
    CFGPlusPlus(0.6),
    AdaptiveGuidance(5.0),
    PerpNeg(["a ring"], 1.0, 5.0),
    PAG(3.0),
    SoftPAG(3.0),
    SEG(3.0),
)
NEVER = (1e8, 1e9)
"""Noise levels that no step has."""

EXTRA = OFF | {
    f"{type(rule).__name__} outside its interval": rule.between(sigma=NEVER) for rule in ON
}
"""Rules that must not cost an evaluation."""

IMAGES = 4
"""Batch of AdaptiveGuidance, whose images converge each at a step of its own."""


def overhead(model: str, settings: BenchSettings, on_step: OnStep) -> Iterator[Row]:
    """CFG through ``guide`` against the pipeline's own, and whether they agree to the last bit."""
    made = subject(model, settings)
    ours, other = partial(_guided, made, CFG(5.0)), partial(made.sample, 5.0)
    times = paired(ours, other, settings.pairs, on_step)
    case = f"CFG through guide against the pipeline's own, {made.steps} steps"
    yield Row.of_times("overhead", model, case, times, BARS.get(model, 1.01))
    apart = _apart(ours(), other())
    yield Row("overhead", model, "largest difference of the two", "", apart, bar=0)


def evaluations(model: str, settings: BenchSettings, on_step: OnStep) -> Iterator[Row]:
    """Denoiser evaluations, beside the conditional ones, of rules that are off."""
    made, rows = subject(model, settings), []
    made.denoiser.register_forward_pre_hook(lambda net, args: rows.append(len(args[0])))
    for case, rule in EXTRA.items():
        rows.clear()
        _guided(made, rule)
        extra = sum(rows) - made.steps
        yield Row("evaluations", model, case, "extra evaluations per image", extra, bar=0)
        on_step()


def adaptive(model: str, settings: BenchSettings, on_step: OnStep) -> Iterator[Row]:
    """AdaptiveGuidance against CFG at the same scale."""
    made, rules = subject(model, settings, IMAGES), (AdaptiveGuidance(5.0), CFG(5.0))
    ours, other = (partial(_guided, made, rule) for rule in rules)
    times = paired(ours, other, settings.pairs, on_step)
    case = f"AdaptiveGuidance against CFG, {made.steps} steps, batch of {IMAGES}"
    yield Row.of_times("adaptive", model, case, times)
    spent = []
    for rule in rules:
        with guide(made.pipe, rule) as run:
            made.sample(2.0)
        spent.append(run.report.nfe)
    yield Row(
        "adaptive", model, case, "evaluations per image", spent[0], spent[1], spent[0] / spent[1]
    )


def pag(model: str, settings: BenchSettings, on_step: OnStep) -> Iterator[Row]:
    """CFG with SoftPAG at full strength against diffusers' PAG on the same denoiser and layers."""
    made = subject(model, settings)
    theirs = diffusers.AutoPipelineForText2Image.from_pipe(
        made.pipe, enable_pag=True, pag_applied_layers=["mid"]
    )
    theirs.set_progress_bar_config(disable=True)
    ours = partial(_guided, made, CFG(5.0) + SoftPAG(3.0, heads="mid"))
    other = partial(made.sample, 5.0, theirs, pag_scale=3.0)
    times = paired(ours, other, settings.pairs, on_step)
    case = f"CFG + SoftPAG against {type(theirs).__name__}, {made.steps} steps"
    yield Row.of_times("pag", model, case, times, None if model == TRAINED else 1.0)
    if model != TRAINED:
        return  # attention in a network of random weights changes nothing that could be compared
    effect = _apart(other(), made.sample(5.0))
    apart, case = _apart(ours(), other()), "largest difference of the two, over what PAG changes"
    yield Row("pag", model, case, "", apart, effect, apart / effect, bar=0.01)


def memory(model: str, settings: BenchSettings, on_step: OnStep) -> Iterator[Row]:
    """Peak memory with the branches one by one against all in one batch."""
    sequential = peak_memory(model, settings, "sequential")
    on_step()
    joint = peak_memory(model, settings, "joint")
    on_step()
    case = f"peak beyond the model, {RULE} sequential against joint, batch of {BATCH}"
    yield Row("memory", model, case, "bytes", sequential, joint, sequential / joint)


def _guided(made: Subject, rule: Rule) -> Tensor:
    """A sample through a rule; the pipeline's own scale only switches its rows on."""
    with guide(made.pipe, rule):
        return made.sample(2.0)


def _apart(one: Tensor, other: Tensor) -> float:
    """Largest difference."""
    return (one - other).abs().max().item()
