"""The table of methods agrees with what the package offers."""

from __future__ import annotations

import guidance
from guidance import METHODS
from guidance.core.spec import known_rules


def test_every_method_of_the_package_has_one_line_and_a_public_name() -> None:
    shipped = {
        name for name, cls in known_rules().items() if cls.__module__.startswith("guidance.")
    }
    assert sorted(method.name for method in METHODS) == sorted(shipped)
    assert all(getattr(guidance, method.name) is method.rule for method in METHODS)


def test_every_method_names_its_paper_where_the_table_does() -> None:
    for method in METHODS:
        module = __import__(method.rule.__module__, fromlist=["__doc__"])
        assert f"arXiv {method.arxiv}" in (module.__doc__ or "")
