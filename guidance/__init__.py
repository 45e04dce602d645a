"""Guidance for diffusers pipelines: ``with guide(pipe, CFG(6.0) + Rescale(0.7)) as run: ...``."""

from guidance.apg import APG
from guidance.cfg import CFG
from guidance.cfg_plus_plus import CFGPlusPlus
from guidance.cfg_zero_star import CFGZeroStar
from guidance.core.family import Family, register_family
from guidance.core.guide import guide
from guidance.core.prediction import COND, UNCOND, Step, limited, perturbed, prompt, weak
from guidance.core.report import Record, Report
from guidance.core.rule import Chain, Conditioning, Correction, Direction, Rule
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
from guidance.dynamic_threshold import DynamicThreshold
from guidance.registry import METHODS, Method
from guidance.rescale import Rescale

__all__ = [
    "APG",
    "CFG",
    "COND",
    "METHODS",
    "UNCOND",
    "CFGPlusPlus",
    "CFGZeroStar",
    "Chain",
    "Conditioning",
    "Correction",
    "Direction",
    "DynamicThreshold",
    "Family",
    "Method",
    "Record",
    "Report",
    "Rescale",
    "Rule",
    "Run",
    "ScaledDirection",
    "Schedule",
    "Step",
    "constant",
    "cosine",
    "guide",
    "limited",
    "linear",
    "parse_rule",
    "perturbed",
    "piecewise",
    "power",
    "prompt",
    "register_family",
    "table",
    "weak",
]
