"""What the settings of a rule look like in a form: read from its class, never written twice.

A form sends JSON. Only what a control allows becomes a setting: a name from its list, a number, a
short text; no control takes the path of a file.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from typing import Any, get_type_hints

from guidance import Rule, Starting
from guidance.adaptive import CROSSINGS, SPACES
from guidance.core.heads import Selectors
from guidance.core.schedule import Scale
from guidance.evaluators.panel import NORMALISATIONS
from guidance.head_set import HeadSet
from guidance.registry import METHODS
from guidance.soft_pag import JOINT_MODES


@dataclass(frozen=True)
class Control:
    """One setting in a form.

    Attributes:
        name: of the setting.
        kind: ``scale`` (a number, or a change from one to another over the run), ``number``,
            ``whole``, ``numbers``, ``flag``, ``choice``, ``layers``, ``weak`` (a weaker model),
            ``text`` or ``negatives`` (texts with weights).
        default: as JSON.
        optional: whether it may be left empty.
        choices: of a ``choice``.
        high: largest number, where the class itself has no bound that a visitor may use up.
        help: from the docstring.
    """

    name: str
    kind: str
    default: Any = None
    optional: bool = False
    choices: tuple[str, ...] = ()
    high: float | None = None
    help: str = ""

    @property
    def label(self) -> str:
        return self.name.replace("_", " ").capitalize()


@dataclass(frozen=True)
class Offer:
    """A method in the demo.

    Attributes:
        rule: its class.
        summary: what it does, in a line.
        controls: of its settings.
        limited: whether it can be limited to a part of the run.
    """

    rule: type[Rule]
    summary: str
    controls: tuple[Control, ...]
    limited: bool

    def to_dict(self) -> dict[str, Any]:
        """For the form."""
        controls = [asdict(control) | {"label": control.label} for control in self.controls]
        return {"summary": self.summary, "limited": self.limited, "controls": controls}


_LEFT_OUT = {
    "ClassifierGuidance": "needs a classifier of one's own",
    "GradientFreeClassifierGuidance": "needs a classifier of one's own",
    "LinearAG": "needs a fit, which is a file",
    "LossGuidance": "needs a loss, which is code",
}
"""Methods that a form cannot describe, with the reason."""

_OWN: dict[tuple[str, str], Mapping[str, Any] | None] = {
    ("AdaptiveGuidance", "rule_or_scale"): {"kind": "scale", "optional": True, "default": 4.0},
    ("AdaptiveGuidance", "space"): {"kind": "choice", "choices": SPACES},
    ("AdaptiveGuidance", "crossing"): {"kind": "choice", "choices": CROSSINGS},
    ("AutoGuidance", "scale"): {"default": 2.0},
    ("AutoGuidance", "weak"): {"kind": "weak"},
    ("DynamicCFG", "scales"): {"kind": "numbers", "default": [1, 2, 4, 8]},
    ("DynamicCFG", "evaluators"): None,
    ("DynamicCFG", "weights"): None,
    ("DynamicCFG", "normalisation"): {"kind": "choice", "choices": NORMALISATIONS},
    ("MinorityGuidance", "scale"): {"default": 3.5},
    ("MinorityGuidance", "classifier"): None,
    ("MinorityGuidance", "label"): {"kind": "whole", "optional": True},
    ("MinorityPrompt", "iterations"): {"high": 20},
    ("MinorityPrompt", "position"): {"kind": "choice", "choices": ("end", "start")},
    ("PerpNeg", "negatives"): {"kind": "negatives", "default": [["", 1.0]]},
    ("PerpNeg", "weights"): None,
    ("SelfGuidedMinority", "distance"): None,
    ("SelfGuidedMinority", "draws"): {"high": 4},
    ("SoftPAG", "heads"): {"kind": "layers"},
    ("SoftPAG", "strength"): {"kind": "number"},
    ("SoftPAG", "joint_mode"): {"kind": "choice", "choices": JOINT_MODES, "optional": True},
}
"""Where a setting's annotation does not say enough; None where the demo sets it."""

_KINDS: dict[Any, Mapping[str, Any]] = {
    Scale: {"kind": "scale"},
    Scale | None: {"kind": "scale", "optional": True, "default": 4.0},
    Selectors: {"kind": "layers"},
    Selectors | HeadSet: {"kind": "layers"},
    bool: {"kind": "flag"},
    float: {"kind": "number"},
    float | None: {"kind": "number", "optional": True},
    int: {"kind": "whole"},
    int | None: {"kind": "whole", "optional": True},
    str | None: {"kind": "text", "optional": True},
}


@cache
def offers() -> dict[str, Offer]:
    """The methods of the demo, by name, in the order of the registry."""
    return {
        method.name: Offer(
            rule=method.rule,
            summary=method.summary,
            controls=_controls(method.rule),
            limited=not issubclass(method.rule, Starting),
        )
        for method in METHODS
        if method.name not in _LEFT_OUT
    }


def _controls(rule: type[Rule]) -> tuple[Control, ...]:
    hints, helps = get_type_hints(rule), _arguments(inspect.getdoc(rule) or "")
    found = []
    for item in fields(rule):
        own = _OWN.get((rule.__name__, item.name), {})
        if not item.init or own is None:
            continue
        known = item.default is not MISSING and item.default is not None
        settings = {
            "name": item.name,
            "help": helps.get(item.name, ""),
            **_KINDS.get(hints[item.name], {}),
            **({"default": item.default} if known else {}),
            **own,
        }
        found.append(Control(**settings))
    return tuple(found)


def _arguments(doc: str) -> dict[str, str]:
    """What the ``Args`` section of a docstring says of each argument."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", doc, re.DOTALL | re.MULTILINE)
    found: dict[str, str] = {}
    entry = re.compile(r"^    ([\w, ]+): (.*?)(?=^    \w|\Z)", re.DOTALL | re.MULTILINE)
    for names, text in entry.findall(section[1] if section else ""):
        plain = " ".join(text.replace("``", "").split())
        found |= {name.strip(): plain[:1].upper() + plain[1:] for name in names.split(",")}
    return found
