"""One comparison from start to files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from apps.compare.picture import difference_picture, grid_picture
from apps.compare.settings import MOST_CELLS, CompareSettings
from apps.compare.sweep import Variant, variants
from apps.emblem.pictures import to_tensor
from apps.emblem.render import SIZE
from apps.emblem.score import Scorer, judge
from apps.emblem.world import parse
from apps.generate import Job, generate
from apps.pictures import write_file, write_png
from apps.rules import rule_settings
from apps.sample import (
    OnProgress,
    call_of,
    check_writable,
    common_settings,
    new_folder,
    open_pipeline,
)
from apps.shipped import shipped
from guidance import CFG, guide


@dataclass(frozen=True)
class Cell:
    """One picture of a comparison.

    Attributes:
        rule: label of the rule.
        job: prompt and seed.
        image: the picture.
        evaluations: of the denoiser, the mean over the batch that it was drawn in.
        seconds: its share of the time of that batch, decoding included.
        accuracy: of captions of the Emblem world, 1 where the picture shows all that the prompt
            states, and else 0; None for other prompts.
    """

    rule: str
    job: Job
    image: Image.Image
    evaluations: float
    seconds: float
    accuracy: float | None = None


@dataclass(frozen=True)
class CompareResult:
    """What ``compare`` wrote; ``report`` is the content of ``report.json``."""

    cells: tuple[Cell, ...]
    grid: Path
    difference: Path | None
    table: Path
    report: dict[str, Any]


def compare(settings: CompareSettings, on_progress: OnProgress | None = None) -> CompareResult:
    """Draw every rule on the same noise, and write what it made and cost.

    Files in one folder: pictures ``NNN-SEED.png``, ``grid.png`` with a row for each rule and a
    column for each seed, ``compare.csv`` and ``report.json`` with a row for each cell, and
    ``difference.png`` if asked for.

    Raises:
        ValueError, TypeError: a setting that cannot be carried out; nothing is written then.
    """
    rows = variants(settings.rules, settings.sweep)
    count = len(rows) * len(settings.prompts) * len(settings.seeds)
    if count > MOST_CELLS:
        raise ValueError(f"a comparison has at most {MOST_CELLS} pictures, found {count}")
    out = settings.out or new_folder()
    check_writable(out)
    pipe = open_pipeline(settings, settings.device)
    common = common_settings(pipe, settings)
    rules = {row.label: rule_settings(row.rule) for row in rows}
    cells: list[Cell] = []
    files: list[str] = []
    for cell in draw(pipe, settings, rows, on_progress):
        out.mkdir(parents=True, exist_ok=True)
        files.append(f"{len(cells):03}-{cell.job.seed}.png")
        size = {"width": cell.image.width, "height": cell.image.height}
        about = {"prompt": cell.job.prompt, "seed": cell.job.seed} | size
        metadata = about | common | rules[cell.rule]
        write_png(out / files[-1], cell.image, metadata if settings.metadata else None)
        cells.append(cell)
    cells = judged(cells)
    grid, difference, table = (out / name for name in ("grid.png", "difference.png", "compare.csv"))
    write_png(grid, grid_picture(cells))
    if settings.difference:
        write_png(difference, difference_picture(cells))
    listed = [_row(number, *pair) for number, pair in enumerate(zip(files, cells, strict=True))]
    report = {**common, "rules": rules, "grid": grid.name, "cells": listed}
    write_file(table, _csv(listed))
    write_file(out / "report.json", json.dumps(report, indent=1, ensure_ascii=False).encode())
    shown = difference if settings.difference else None
    return CompareResult(tuple(cells), grid, shown, table, report)


def draw(
    pipe: Any,
    settings: CompareSettings,
    rows: Sequence[Variant],
    on_progress: OnProgress | None = None,
) -> Iterator[Cell]:
    """The cells of a comparison as they are drawn, rule by rule, prompt by prompt, seed by seed.

    ``settings.out`` and what only concerns files are not read.
    """
    report = on_progress or (lambda done, total: None)
    jobs = [Job(prompt, seed) for prompt in settings.prompts for seed in settings.seeds]
    done, total = 0, len(rows) * len(jobs)
    for row in rows:
        call = call_of(settings, row.rule is not None)
        with guide(pipe, row.rule or CFG(1.0)) as run:
            for start in range(0, len(jobs), settings.batch_size):
                batch = jobs[start : start + settings.batch_size]
                spent, began, before = run.report.nfe, perf_counter(), done
                images = list(
                    generate(
                        pipe,
                        batch,
                        call,
                        batch_size=len(batch),
                        on_progress=lambda part, before=before: report(before + part, total),  # type: ignore[misc]
                    )
                )
                seconds = (perf_counter() - began) / len(batch)
                done += len(batch)
                for job, image in zip(batch, images, strict=True):
                    yield Cell(row.label, job, image, run.report.nfe - spent, seconds)


def judged(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with their accuracy, where the prompts are captions of the Emblem world."""
    try:
        goals = [parse(cell.job.prompt) for cell in cells]
    except ValueError:
        return list(cells)
    if any(cell.image.size != (SIZE, SIZE) for cell in cells):
        return list(cells)
    images = to_tensor(np.stack([np.asarray(cell.image.convert("RGB")) for cell in cells]))
    scorer = Scorer.from_pretrained(shipped("emblem-classifier"))
    accuracy = judge(scorer.read(images), goals)["accuracy"]
    return [replace(cell, accuracy=own) for cell, own in zip(cells, accuracy, strict=True)]


def _row(number: int, file: str, cell: Cell) -> dict[str, Any]:
    row = {
        "cell": number,
        "file": file,
        "prompt": cell.job.prompt,
        "rule": cell.rule,
        "seed": cell.job.seed,
        "evaluations": cell.evaluations,
        "seconds": round(cell.seconds, 4),
    }
    return row if cell.accuracy is None else row | {"accuracy": cell.accuracy}


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
