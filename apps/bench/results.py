"""Rows of a benchmark, and its files: a table as CSV, and JSON with where it comes from."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from apps.bench.timing import Paired
from apps.pictures import write_file


@dataclass(frozen=True)
class Row:
    """One result.

    Attributes:
        part, model: what was measured, on what.
        case: in words.
        unit: of ``ours`` and ``other``.
        ours, other: this toolkit's value, and what it is compared with.
        ratio, low, high: ``ours`` over ``other``, with its quartiles if it is a median of pairs.
        pairs: number of pairs.
        bar: the most that the ratio may be, or ``ours`` where there is no ratio.
    """

    part: str
    model: str
    case: str
    unit: str
    ours: float
    other: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int | None = None
    bar: float | None = None

    @classmethod
    def of_times(
        cls,
        part: str,
        model: str,
        case: str,
        times: Paired,
        bar: float | None = None,
        unit: str = "s per sample",
    ) -> Row:
        """The result of a paired measurement."""
        return cls(part, model, case, unit, **asdict(times), bar=bar)

    @property
    def met(self) -> bool | None:
        """Whether the bar is met, None without one."""
        value = self.ours if self.ratio is None else self.ratio
        return None if self.bar is None else value <= self.bar


COLUMNS = (*(item.name for item in fields(Row)), "met")


def provenance(command: str, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Where the results come from."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    packages = ("diffusteer", "torch", "diffusers", "accelerate")
    return {
        "command": command,
        "device": gpu or device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in packages}
        | {"python": platform.python_version()},
    }


def write_results(stem: Path, about: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write ``stem.csv`` and ``stem.json``."""
    table = [asdict(row) | {"met": row.met} for row in rows]
    stem.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({**about, "rows": table}, indent=1) + "\n"
    write_file(stem.with_name(f"{stem.name}.json"), content.encode())
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_file(stem.with_name(f"{stem.name}.csv"), file.getvalue().encode())


def markdown_table(rows: Sequence[Row]) -> str:
    """The results for people."""
    lines = [
        "| model | case | ours | other | ratio (quartiles) | bar |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.4g}"
        if row.low is not None:
            ratio += f" ({row.low:.3f} to {row.high:.3f})"
        other = "" if row.other is None else _amount(row.other, row.unit)
        bar = "" if row.bar is None else f"{row.bar:g}, {'met' if row.met else 'missed'}"
        ours = _amount(row.ours, row.unit)
        lines.append(f"| {row.model} | {row.case} | {ours} | {other} | {ratio} | {bar} |")
    return "\n".join(lines)


def _amount(value: float, unit: str) -> str:
    return f"{value / 2**20:.0f} MiB" if unit == "bytes" else f"{value:.4g} {unit}".rstrip()
