"""The table of methods: one line each."""

from __future__ import annotations

from dataclasses import dataclass

from guidance.apg import APG
from guidance.cfg import CFG
from guidance.cfg_plus_plus import CFGPlusPlus
from guidance.cfg_zero_star import CFGZeroStar
from guidance.core.rule import Rule
from guidance.dynamic_threshold import DynamicThreshold
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
    Method(APG, "2410.02416", "1", "high scales without oversaturation"),
    Method(CFGZeroStar, "2503.18886", "1", "optimised unconditional scale, zero first step (flow)"),
    Method(CFGPlusPlus, "2406.08070", "1", "renoises with the unconditional noise (DDIM, Euler)"),
    Method(DynamicThreshold, "2205.11487", "0", "keeps x0 within its bounds (pixel models)"),
)
