"""Guidance for diffusers pipelines: ``with guide(pipe, CFG(6.0) + Rescale(0.7)) as run: ...``."""

from guidance.adaptive import AdaptiveGuidance
from guidance.apg import APG
from guidance.auto_guidance import AutoGuidance
from guidance.boost_and_skip import BoostAndSkip
from guidance.cads import CADS
from guidance.cfg import CFG
from guidance.cfg_plus_plus import CFGPlusPlus
from guidance.cfg_zero_star import CFGZeroStar
from guidance.classifier_guidance import ClassifierGuidance
from guidance.core.chain import Chain
from guidance.core.family import Family, register_family
from guidance.core.guide import guide
from guidance.core.guider import from_guider, to_guider
from guidance.core.inspect import Inspection, inspect
from guidance.core.kinds import Conditioning, Correction, Direction, Starting
from guidance.core.perturb import Call, Perturbation, PerturbedDirection
from guidance.core.prediction import COND, UNCOND, Step, limited, perturbed, prompt, weak
from guidance.core.report import Record, Report
from guidance.core.rule import Rule, Start, Token
from guidance.core.run import Run
from guidance.core.scaled import ScaledDirection
from guidance.core.schedule import (
    Schedule,
    constant,
    cosine,
    linear,
    piecewise,
    power,
    table,
)
from guidance.core.spec import parse_rule
from guidance.dynamic_cfg import DynamicCFG
from guidance.dynamic_threshold import DynamicThreshold
from guidance.evaluators import (
    Agreement,
    Alignment,
    Clipping,
    Decoded,
    Discriminator,
    LatentClassifier,
    NoisyClassifier,
    Reward,
    Saturation,
)
from guidance.fit_linear_ag import fit_linear_ag
from guidance.gfcg import GradientFreeClassifierGuidance
from guidance.head_hunter import hunt
from guidance.head_set import HeadSet
from guidance.kernel_bandit import RBF, Polynomial, RandomFourier, exploration
from guidance.linear_ag import LinearAG
from guidance.loss_guidance import LossGuidance
from guidance.minority import MinorityGuidance, minority_score, quantile_labels
from guidance.minority_prompt import MinorityPrompt
from guidance.minority_scores import OfPictures, minority_scores
from guidance.perp_neg import PerpNeg
from guidance.registry import METHODS, Method
from guidance.rescale import Rescale
from guidance.seg import SEG
from guidance.selection import PromptRouter
from guidance.self_guided_minority import SelfGuidedMinority
from guidance.skip_layers import SkipLayers
from guidance.soft_pag import PAG, SoftPAG
from guidance.view_weights import view_weights

__all__ = [
    "APG",
    "CADS",
    "CFG",
    "COND",
    "METHODS",
    "PAG",
    "RBF",
    "SEG",
    "UNCOND",
    "AdaptiveGuidance",
    "Agreement",
    "Alignment",
    "AutoGuidance",
    "BoostAndSkip",
    "CFGPlusPlus",
    "CFGZeroStar",
    "Call",
    "Chain",
    "ClassifierGuidance",
    "Clipping",
    "Conditioning",
    "Correction",
    "Decoded",
    "Direction",
    "Discriminator",
    "DynamicCFG",
    "DynamicThreshold",
    "Family",
    "GradientFreeClassifierGuidance",
    "HeadSet",
    "Inspection",
    "LatentClassifier",
    "LinearAG",
    "LossGuidance",
    "Method",
    "MinorityGuidance",
    "MinorityPrompt",
    "NoisyClassifier",
    "OfPictures",
    "PerpNeg",
    "Perturbation",
    "PerturbedDirection",
    "Polynomial",
    "PromptRouter",
    "RandomFourier",
    "Record",
    "Report",
    "Rescale",
    "Reward",
    "Rule",
    "Run",
    "Saturation",
    "ScaledDirection",
    "Schedule",
    "SelfGuidedMinority",
    "SkipLayers",
    "SoftPAG",
    "Start",
    "Starting",
    "Step",
    "Token",
    "constant",
    "cosine",
    "exploration",
    "fit_linear_ag",
    "from_guider",
    "guide",
    "hunt",
    "inspect",
    "limited",
    "linear",
    "minority_score",
    "minority_scores",
    "parse_rule",
    "perturbed",
    "piecewise",
    "power",
    "prompt",
    "quantile_labels",
    "register_family",
    "table",
    "to_guider",
    "view_weights",
    "weak",
]
