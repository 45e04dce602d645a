"""The table of methods: one line each."""

from __future__ import annotations

from dataclasses import dataclass

from guidance.adaptive import AdaptiveGuidance
from guidance.apg import APG
from guidance.auto_guidance import AutoGuidance
from guidance.boost_and_skip import BoostAndSkip
from guidance.cads import CADS
from guidance.cfg import CFG
from guidance.cfg_plus_plus import CFGPlusPlus
from guidance.cfg_zero_star import CFGZeroStar
from guidance.classifier_guidance import ClassifierGuidance
from guidance.core.rule import Rule
from guidance.dynamic_cfg import DynamicCFG
from guidance.dynamic_threshold import DynamicThreshold
from guidance.gfcg import GradientFreeClassifierGuidance
from guidance.linear_ag import LinearAG
from guidance.loss_guidance import LossGuidance
from guidance.minority import MinorityGuidance
from guidance.minority_prompt import MinorityPrompt
from guidance.perp_neg import PerpNeg
from guidance.rescale import Rescale
from guidance.seg import SEG
from guidance.self_guided_minority import SelfGuidedMinority
from guidance.skip_layers import SkipLayers
from guidance.soft_pag import PAG, SoftPAG


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
    Method(DynamicCFG, "2509.16131", "1", "the scale that evaluators like best, image by image"),
    Method(PerpNeg, "2304.04968", "1 + negatives", "negatives that leave the prompt alone"),
    Method(SoftPAG, "2506.10978", "1", "pushes away from softened attention heads"),
    Method(PAG, "2403.17377", "1", "pushes away from identity self-attention"),
    Method(SEG, "2408.00760", "1", "pushes away from blurred attention"),
    Method(SkipLayers, "2411.18664", "1", "pushes away from a denoiser without some blocks"),
    Method(AutoGuidance, "2406.02507", "1", "pushes away from a weaker version of the model"),
    Method(
        GradientFreeClassifierGuidance,
        "2411.15393",
        "0 or 1",
        "pushes away from the class that a picture resembles (reconstruction)",
    ),
    Method(ClassifierGuidance, "2105.05233", "0", "follows the gradient of a classifier"),
    Method(LossGuidance, "2302.07121", "0", "follows the gradient of any loss of x0"),
    Method(MinorityGuidance, "2301.12334", "0", "goes to rare pictures, by a trained classifier"),
    Method(SelfGuidedMinority, "2407.11555", "1/5", "goes to what the model finds hard to rebuild"),
    Method(MinorityPrompt, "2410.07838", "2", "rarer pictures by a token learned on the way"),
    Method(BoostAndSkip, "2502.06516", "0", "rarer pictures from boosted noise, a little later"),
    Method(CADS, "2310.17347", "0", "more diverse images by a condition that starts noisy"),
    Method(AdaptiveGuidance, "2312.12487", "1, then 0", "stops a rule, image by image, at the end"),
    Method(LinearAG, "2312.12487", "1/4", "estimates unconditional predictions after a fit"),
    Method(DynamicThreshold, "2205.11487", "0", "keeps x0 within its bounds (pixel models)"),
)
