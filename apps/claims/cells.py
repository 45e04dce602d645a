"""What is measured: one cell is a model, a rule, a set of prompts and a number of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.rules import read_rule
from guidance import Rule

if TYPE_CHECKING:
    from apps.claims.measure import Bench
    from apps.claims.scores import Score
    from apps.claims.store import Measured


@dataclass(frozen=True)
class Material:
    """What a rule may be made from.

    Attributes:
        pipe: the pipeline to guide.
        negatives: negative prompts of the batch, one for each of its pictures.
        weights: names the pipeline's weights.
        work: folder for what is made once, a fit say.
    """

    pipe: Any
    negatives: tuple[str, ...]
    weights: str
    work: Path


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement.

    Attributes:
        name: unique; also the name of its files.
        claim: what it is part of.
        rule: as text; also what ``make`` makes.
        model: name of a shipped model.
        prompts: name of a set of requests.
        steps: denoising steps.
        negative: use the requests' negatives as the pipeline's own negative prompts.
        baseline: name of the cell that this one is compared with, if any.
        series: curve of the claim's plot that it is a point of.
        knobs: numbers that tell it from the other points of that curve.
        make: makes the rule where a text cannot.
        measures: keys of ``apps.claims.extras.EXTRAS``, what is measured beside the usual.
        networks: names of shipped networks that the rule uses beside the model.
        beside: what its row tells beside the measures, of the finished cell.
        score: what fresh renders are scored by; such a cell draws no pictures of its own.
    """

    name: str
    claim: str
    rule: str
    model: str = "emblem-unet"
    prompts: str = "pairs"
    steps: int = 20
    negative: bool = False
    baseline: str | None = None
    series: str = ""
    knobs: Mapping[str, float] = field(default_factory=dict)
    make: Callable[[Material], Rule] | None = None
    measures: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    beside: Callable[[Bench, Measured], Mapping[str, Any]] | None = None
    score: Score | None = None

    def tell(self, bench: Bench, measured: Measured) -> Mapping[str, Any]:
        """What the row of the finished cell tells beside the measures."""
        return self.beside(bench, measured) if self.beside else {}

    def build(self, material: Material) -> Rule:
        """The rule for a batch."""
        return self.make(material) if self.make else read_rule(self.rule)


def short(model: str) -> str:
    """A shipped model's name as the names of cells have it."""
    return model.removeprefix("emblem-")
