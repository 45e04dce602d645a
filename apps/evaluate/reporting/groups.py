"""Which results stand side by side, and under which names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from apps.evaluate.result import Result, Score

Group = Mapping[str, Result]
"""Results of one protocol by name."""

Scores = Mapping[str, Mapping[str, Score]]
"""Per metric the score of each result that has it, by the result's name."""

_LETTERS = 60


def grouped(results: Mapping[Path, Result]) -> dict[str, list[Group]]:
    """Per protocol, groups of results of equal settings, in the order given."""
    protocols = dict.fromkeys(result.protocol for result in results.values())
    return {
        protocol: _comparable(
            named({path: found for path, found in results.items() if found.protocol == protocol})
        )
        for protocol in protocols
    }


def named(results: Mapping[Path, Result]) -> Group:
    """Results by the folder of their pictures; by their files where folders share a name."""
    stems = [path.stem for path in results]
    folders = [
        (result.images and Path(result.images.folder).name) or stem
        for result, stem in zip(results.values(), stems, strict=True)
    ]
    numbered = [f"{number}-{stem}" for number, stem in enumerate(stems, 1)]
    names = next(
        names
        for names in (folders, stems, numbered)
        if len({slug(name).lower() for name in names}) == len(names)
    )
    return dict(zip(names, results.values(), strict=True))


def _comparable(results: Group) -> list[Group]:
    groups: dict[str, dict[str, Result]] = {}
    for name, result in results.items():
        groups.setdefault(json.dumps(result.settings, sort_keys=True), {})[name] = result
    return list(groups.values())


def scores_of(results: Group) -> Scores:
    """The scores of results by metric."""
    found: dict[str, dict[str, Score]] = {}
    for name, result in results.items():
        for score in result.scores:
            found.setdefault(score.metric, {})[name] = score
    return found


def slug(text: str) -> str:
    """A name that files can have everywhere and that links need not quote."""
    return re.sub(r"[^a-zA-Z0-9_.-]+", "-", text)[:_LETTERS]
