"""Results as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apps.evaluate.comparison import differing
from apps.evaluate.reporting.groups import Group, Scores
from apps.evaluate.reporting.pictures import Sheet
from apps.evaluate.result import Score, short

NAMED = 8
"""Pictures left out that are named."""


def escape(text: str) -> str:
    """Text that Markdown shows as it is, also within a table."""
    return re.sub(r"([\\`*<>\[\]|&])", r"\\\1", " ".join(text.split()))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts."""
    lines = [map(escape, head), ["---"] * len(head), *(map(escape, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def score_table(scores: Scores, names: Sequence[str]) -> str:
    """Metrics by results: value, 95 % interval, number of items."""
    rows = [
        [
            metric,
            next(iter(found.values())).better,
            *(_cell(found[name]) if name in found else "" for name in names),
        ]
        for metric, found in scores.items()
    ]
    return table(["metric", "better", *names], rows)


def _cell(score: Score) -> str:
    bounds = "" if score.interval is None else f" ({' to '.join(map(short, score.interval))})"
    return f"{short(score.value)}{bounds}, n = {score.n}"


def definitions(scores: Scores) -> str:
    """What each metric is."""
    firsts = (next(iter(found.values())) for found in scores.values())
    return "\n".join(f"- {escape(score.metric)}: {escape(score.about)}" for score in firsts)


def differences(first: Group, other: Group) -> str:
    """Which settings of two groups of a protocol are not equal, in one line."""
    found = "; ".join(differing(_settings(first), _settings(other)))
    return f"Not to be compared with the results above: {escape(_brief(found))}."


def settings_table(results: Group) -> str:
    """What the results have in common, so that they can be compared."""
    return table(["setting", "value"], list(_flat(_settings(results))))


def _settings(results: Group) -> Mapping[str, Any]:
    return next(iter(results.values())).settings


def provenance_table(results: Group) -> str:
    """Where each result comes from."""
    columns = [dict(_flat(result.provenance)) for result in results.values()]
    fields = dict.fromkeys(field for column in columns for field in column)
    rows = [[field, *(column.get(field, "") for column in columns)] for field in fields]
    return table(["made by", *results], rows)


def left_out(results: Group) -> list[str]:
    """Pictures that could not be read: a paragraph for each result that lacks some."""
    lines = []
    for name, result in results.items():
        if reasons := [f"{picture} ({why})" for picture, why in result.left_out.items()]:
            more = f" and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
            text = f"Left out of {name} ({len(reasons)}): {', '.join(reasons[:NAMED])}{more}"
            lines.append(escape(text))
    return lines


def gallery(sheets: Sequence[Sheet], folder: str) -> list[str]:
    """Sheets by metric, each with the names of its pictures."""
    lines = ["### Best and worst pictures"] if sheets else []
    for metric in dict.fromkeys(sheet.metric for sheet in sheets):
        lines.append(f"#### {escape(metric)}")
        for sheet in sheets:
            if sheet.metric == metric:
                alt = escape(f"{metric} of {sheet.result}")
                lines += [f"![{alt}]({folder}/{sheet.file})", _named(sheet)]
    return lines


def _named(sheet: Sheet) -> str:
    rows = [
        [row, pick.name, short(pick.value), pick.text]
        for row, picks in sheet.picks.items()
        for pick in picks
    ]
    title = f"<summary>pictures of {html.escape(sheet.result)}</summary>"
    listed = table(["", "picture", "value", "prompt"], rows)
    return f"<details>{title}\n\n{listed}\n\n</details>"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as names with dots and texts."""
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        value = dict(enumerate(value, 1))
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value)) or "none"
    else:
        yield name, "none" if value is None else _brief(str(value))


def _brief(text: str) -> str:
    """Text with hashes cut to 12 digits."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", text)
