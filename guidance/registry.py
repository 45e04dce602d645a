"""The table of methods: one line each."""

from __future__ import annotations

from dataclasses import dataclass

from guidance.cfg import CFG
from guidance.core.rule import Rule
from guidance.rescale import Rescale


@dataclass(frozen=True)
class Method:
    """A guidance method.

    Attributes:
        rule: its class.
        arxiv: arXiv id of its paper.
        evaluations: extra denoiser evaluations per image and step, beside the conditional one.
        summary: what it does, in a line.
    """

    rule: type[Rule]
    arxiv: str
    evaluations: str
    summary: str

    @property
    def name(self) -> str:
        return self.rule.__name__


METHODS = (
    Method(CFG, "2207.12598", "1", "classifier-free guidance, constant or scheduled"),
    Method(Rescale, "2305.08891", "0", "restores the spread that guidance inflates"),
)
