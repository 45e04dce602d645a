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
    columns: Sequence[str] = _COLUMNS,
) -> None:
    """Write the JSON file of the claims, and the same rows as CSV beside it.

    Args:
        path: of the JSON file.
        about: command, seed, versions and so on.
        measures: what is measured, in words, in the order of the table.
        rows: see ``Summary.rows``.
        columns: what the CSV tells of each row before its measures.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**about, "measures": measures, "cells": list(rows)}
    write_file(path, (json.dumps(content, indent=1) + "\n").encode())
    write_file(path.with_suffix(".csv"), csv_table(rows, measures, columns).encode())


def csv_table(
    rows: Sequence[Mapping[str, Any]], measures: Iterable[str], columns: Sequence[str] = _COLUMNS
) -> str:
    """The rows as CSV: some of their columns, and each measure with its interval's bounds."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    bounds = list(product(measures, ("value", "low", "high")))
    heads = [name if key == "value" else f"{name}_{key}" for name, key in bounds]
    writer.writerow([*columns, *heads])
    for row in rows:
        found = [row["measures"].get(name, {}).get(key) for name, key in bounds]
        writer.writerow([*(row[column] for column in columns), *found])
    return file.getvalue()


def markdown_table(rows: Sequence[Mapping[str, Any]], measures: Sequence[str]) -> str:
    """The rows with some measures and their 95 % intervals."""
    heads = ("cell", "rule", "steps", "evaluations")
    firsts = [
        (
            row["cell"],
            f"`{row['rule']}`",
            str(row["steps"]),
            f"{row['evaluations']:.1f}".removesuffix(".0"),
        )
        for row in rows
    ]
    return bounded_table(rows, measures, heads, firsts)


def bounded_table(
    rows: Sequence[Mapping[str, Any]],
    measures: Sequence[str],
    heads: Sequence[str],
    firsts: Sequence[Sequence[str]],
) -> str:
    """A Markdown table: first columns, with their heads, and measures with their intervals."""
    columns = [*heads, *measures]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row, first in zip(rows, firsts, strict=True):
        cells = [_bounded(name, row["measures"].get(name)) for name in measures]
        lines.append(f"| {' | '.join([*first, *cells])} |")
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
