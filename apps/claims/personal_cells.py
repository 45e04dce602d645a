"""The cells of ``diffusteer claims personalize``: what was learned, how it is loaded, prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apps.claims.learning import RECIPES


@dataclass(frozen=True, kw_only=True)
class PersonalCell:
    """One measurement, over all concepts.

    Attributes:
        recipe: how the concepts were learned; empty for the model itself, which is asked in words
            of its own.
        prompts: name of a set in ``apps.claims.concepts.PROMPTS``.
        controls: of ``load``.
    """

    recipe: str
    prompts: str
    controls: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Unique; also the name of its files."""
        told = [f"{key}-{value}".lower() for key, value in self.controls.items()]
        return "-".join([self.recipe or "plain", *told, self.prompts])

    @property
    def label(self) -> str:
        """What was learned, in words."""
        if not self.recipe:
            return "in the model's own words"
        lock = ", locked globally" if self.controls.get("global_lock") else ""
        return f"{RECIPES[self.recipe].label}{lock}"

    @property
    def numbers(self) -> dict[str, float]:
        """The controls that are numbers."""
        return {name: value for name, value in self.controls.items() if not isinstance(value, bool)}

    @property
    def title(self) -> str:
        """What was learned and how it is loaded, in words."""
        return ", ".join([self.label, *(f"{name} {value}" for name, value in self.numbers.items())])


BETAS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_GLOBAL = {"global_lock": True}
_ZOODIP = ("zoodip", "float", "whole", "uniform")

CELLS = (
    *(PersonalCell(recipe=name, prompts="alone") for name in ("", "ti", *_ZOODIP)),
    *(
        PersonalCell(recipe=name, prompts="alone", controls={"beta": beta})
        for name in ("perfusion", "unlocked")
        for beta in BETAS
    ),
    *(
        PersonalCell(recipe="perfusion", prompts="alone", controls={**_GLOBAL, "beta": beta})
        for beta in BETAS
    ),
    *(
        PersonalCell(recipe="perfusion", prompts=prompts, controls=_GLOBAL)
        for prompts in ("beside", "together")
    ),
    *(
        PersonalCell(recipe=name, prompts=prompts)
        for prompts in ("beside", "together")
        for name in ("", "ti", "perfusion", "unlocked", "zoodip")
    ),
    *(
        PersonalCell(recipe="perfusion", prompts="together", controls={"beta": beta})
        for beta in (0.8, 1.0)
    ),
    *(PersonalCell(recipe=name, prompts="without") for name in ("", "perfusion")),
    PersonalCell(recipe="perfusion", prompts="without", controls={"only_when_present": False}),
)
"""All that there are."""
