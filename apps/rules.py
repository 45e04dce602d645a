"""Rules as text and as metadata, in which what comes with the package goes by its name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from apps.shipped import shipped, shipped_names
from guidance import Rule, parse_rule

_QUOTED = re.compile(r"(['\"])([\w./-]+)\1")


def read_rule(text: str) -> Rule:
    """The rule of a text such as ``AutoGuidance(2, "emblem-unet-weak")``.

    Args:
        text: as ``guidance.parse_rule`` takes it; the name of a shipped model or evaluator stands
            for its folder where there is no folder of this name.

    Raises:
        ValueError: the text is no rule.
    """
    return parse_rule(_QUOTED.sub(_with_folder, text))


def rule_settings(rule: Rule | None) -> dict[str, Any]:
    """The rule of a picture, as metadata has it; None for a picture without guidance."""
    config = json.dumps(rule.to_config()) if rule else "null"
    return {
        "guidance": without_folders(repr(rule)) if rule else "none",
        "guidance_config": json.loads(without_folders(config)),
    }


def without_folders(text: str) -> str:
    """A text with the names of shipped models in place of their folders."""
    for name in sorted(shipped_names(), key=len, reverse=True):
        text = text.replace(str(shipped(name)), name)
    return text


def _with_folder(quoted: re.Match[str]) -> str:
    name = quoted[2]
    found = name in shipped_names() and not Path(name).is_dir()
    return repr(str(shipped(name))) if found else quoted[0]
