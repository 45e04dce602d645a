"""Guidance for diffusers pipelines: ``with guide(pipe, CFG(6.0) + Rescale(0.7)) as run: ...``."""

from guidance.apg import APG
from guidance.cfg import CFG
from guidance.cfg_plus_plus import CFGPlusPlus
from guidance.cfg_zero_star import CFGZeroStar
from guidance.core.family import Family, register_family
from guidance.core.guide import Run, guide
from guidance.core.prediction import COND, UNCOND, Step
from guidance.core.report import Record, Report
from guidance.core.rule import Chain, Correction, Direction, Rule
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
    "linear",
    "parse_rule",
    "piecewise",
    "power",
    "register_family",
    "table",
]
