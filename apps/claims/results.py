"""Files of the measured claims: JSON with everything, and its table as CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from apps.pictures import write_file

_COLUMNS = ("claim", "cell", "model", "prompts", "rule", "negative_prompt", "steps", "evaluations")


def write_results(
    path: Path,
    about: Mapping[str, Any],
    measures: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Write the JSON file of the claims, and the same rows as CSV beside it.

    Args:
        path: of the JSON file.
        about: command, seed, versions and so on.
        measures: what is measured, in words, in the order of the table.
        rows: see ``Summary.rows``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**about, "measures": measures, "cells": list(rows)}
    write_file(path, (json.dumps(content, indent=1) + "\n").encode())
    write_file(path.with_suffix(".csv"), csv_table(rows, measures).encode())


def csv_table(rows: Sequence[Mapping[str, Any]], measures: Iterable[str]) -> str:
    """The rows as CSV: each measure with the bounds of its interval."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = list(product(measures, ("value", "low", "high")))
    heads = [name if key == "value" else f"{name}_{key}" for name, key in columns]
    writer.writerow([*_COLUMNS, *heads])
    for row in rows:
        found = [row["measures"].get(name, {}).get(key) for name, key in columns]
        writer.writerow([*(row[column] for column in _COLUMNS), *found])
    return file.getvalue()


def markdown_table(rows: Sequence[Mapping[str, Any]], measures: Sequence[str]) -> str:
    """The rows with some measures and their 95 % intervals."""
    lines = [
        f"| cell | rule | steps | evaluations | {' | '.join(measures)} |",
        f"|---|---|---|---|{'---|' * len(measures)}",
    ]
    for row in rows:
        cells = [_bounded(name, row["measures"].get(name)) for name in measures]
        evaluations = f"{row['evaluations']:.1f}".removesuffix(".0")
        first = f"{row['cell']} | `{row['rule']}` | {row['steps']} | {evaluations}"
        lines.append(f"| {first} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _bounded(name: str, measure: Mapping[str, float] | None) -> str:
    if measure is None:
        return ""
    value, low, high = measure["value"], measure["low"], measure["high"]
    if name == "fid":
        return f"{value:.1f} ({low:.1f} to {high:.1f})"
    return f"{value:.1%} ({low:.1%} to {high:.1%})"


def machine(device: str) -> str:
    """The machine in words, without its name."""
    return f"{platform.machine()} {device}, {torch.get_num_threads()} threads"
