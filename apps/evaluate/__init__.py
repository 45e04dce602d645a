"""Scores of pictures that say how they were made.

Functions of the names of the commands of ``diffusteer evaluate``; those of feature arrays are in
``apps.evaluate.metrics``. They are loaded when they are asked for, as torch is slow to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apps.evaluate.comparison import Difference as Difference
    from apps.evaluate.comparison import compare as compare
    from apps.evaluate.protocols.distribution import distribution as distribution
    from apps.evaluate.protocols.distribution import statistics as statistics
    from apps.evaluate.protocols.emblem import emblem as emblem
    from apps.evaluate.protocols.multi import multi as multi
    from apps.evaluate.protocols.prompts import prompts as prompts
    from apps.evaluate.protocols.subject import subject as subject
    from apps.evaluate.reporting.report import report as report
    from apps.evaluate.result import Images as Images
    from apps.evaluate.result import Result as Result
    from apps.evaluate.result import Score as Score
    from apps.evaluate.settings import EvaluateSettings as EvaluateSettings

_PLACES = {
    "Difference": "comparison",
    "EvaluateSettings": "settings",
    "Images": "result",
    "Result": "result",
    "Score": "result",
    "compare": "comparison",
    "distribution": "protocols.distribution",
    "emblem": "protocols.emblem",
    "multi": "protocols.multi",
    "prompts": "protocols.prompts",
    "report": "reporting.report",
    "statistics": "protocols.distribution",
    "subject": "protocols.subject",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
