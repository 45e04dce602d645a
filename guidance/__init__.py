"""Guidance for diffusers pipelines: ``with guide(pipe, CFG(6.0) + Rescale(0.7)) as run: ...``."""

from guidance.cfg import CFG
from guidance.core.family import Family, register_family
from guidance.core.guide import Run, guide
from guidance.core.prediction import COND, UNCOND, Step
from guidance.core.report import Record, Report
from guidance.core.rule import Chain, Correction, Direction, Rule
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
from guidance.registry import METHODS, Method
from guidance.rescale import Rescale

__all__ = [
    "CFG",
    "COND",
    "METHODS",
    "UNCOND",
    "Chain",
    "Correction",
    "Direction",
    "Family",
    "Method",
    "Record",
    "Report",
    "Rescale",
    "Rule",
    "Run",
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
