"""Rules read from text."""

from __future__ import annotations

import pytest

from guidance import (
    APG,
    CFG,
    CFGPlusPlus,
    CFGZeroStar,
    Rescale,
    Rule,
    cosine,
    parse_rule,
    piecewise,
    table,
)
from tests.guidance.core.test_rule import RULES


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("CFG", CFG()),
        ("CFG(6)", CFG(6)),
        (" cfg( scale = 6 ) ", CFG(6)),
        ("CFG(cosine(2, 9)) + Rescale(0.7)", CFG(cosine(2, 9)) + Rescale(0.7)),
        ("cfg(Cosine(2, stop=9)) + rescale", CFG(cosine(2, 9)) + Rescale()),
        ("CFG(5).between(0.2, 0.8)", CFG(5).between(0.2, 0.8)),
        ("CFG.between(sigma=(0.3, 5))", CFG().between(sigma=(0.3, 5))),
        ("(CFG(5) + Rescale).between(0, .5)", (CFG(5) + Rescale()).between(0, 0.5)),
        ("CFG(piecewise([(0, 2), (1, 9)]))", CFG(piecewise([(0, 2), (1, 9)]))),
        ("CFG(table((1, 2)))", CFG(table((1, 2)))),
        ("CFG(None)", CFG()),
        ("apg(10, eta=0.2, momentum=-0.75)", APG(10, eta=0.2, momentum=-0.75)),
        ("cfgzerostar(4, 0)", CFGZeroStar(4, 0)),
        ("cfgplusplus", CFGPlusPlus()),
    ],
)
def test_reads(text: str, rule: Rule) -> None:
    assert parse_rule(text) == rule


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_reads_every_repr(rule: Rule) -> None:
    assert parse_rule(repr(rule)) == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold 1 to 2000 characters"),
        ("CFG(" + "1" * 2000 + ")", "must hold 1 to 2000 characters"),
        ("CFG(5", "never closed"),
        ("CFG(5) +", "syntax"),
        ("CGF(5)", "unknown name 'CGF'; did you mean CFG?.*known rules: .*CFG.*Rescale"),
        ("wavelet(5)", "unknown name 'wavelet'.*known rules"),
        ("CFG(cosin(2, 9))", "did you mean cosine?"),
        ("CFG(sale=5)", r"unexpected keyword argument 'sale'; write CFG\(scale\)"),
        ("CFG(5, 6, 7)", r"too many positional arguments; write CFG\(scale\)"),
        ("CFG(linear(2))", r"missing a required argument: 'stop'; write linear\(start, stop\)"),
        ("CFG('5')", "scale must be a finite number"),
        ("CFG(-1)", "scale must be a finite number from 0 up, found -1"),
        ("CFG(9**9)", "not allowed"),
        ("CFG(cosine)", "cosine needs arguments"),
        ("cosine(2, 9)", "expected a rule"),
        ("5", "expected a rule"),
        ("CFG(5) + CFG(6)", "at most one rule may own"),
        ("CFG(5).to_config()", "not allowed"),
        ("CFG(5).between(0.8, 0.2)", "must rise"),
        ("CFG(**{})", "not allowed"),
        ("__import__('os').system('true')", "not allowed"),
        ("Chain((CFG, CFG))", "unknown name 'Chain'"),
        ("Direction()", "unknown name 'Direction'"),
        ("(" * 900 + "CFG" + ")" * 900, "cannot read rule"),
        ("CFG\x00(5)", "cannot read rule"),
    ],
)
def test_refuses_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_rule(text)
    assert "\n" not in str(error.value)
