"""Results side by side, as a page of Markdown with plots and pictures, and as CSV."""

from __future__ import annotations

import csv
import io
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from apps.evaluate.reporting import markdown
from apps.evaluate.reporting.figures import likenesses, plot_fidelity, plot_scores
from apps.evaluate.reporting.groups import Group, grouped, scores_of, slug
from apps.evaluate.reporting.pictures import draw_sheets
from apps.evaluate.result import Result
from apps.pictures import write_file
from apps.sample import check_writable

_log = logging.getLogger("diffusteer")

PICTURES = "pictures"


def report(results: Sequence[Path], out: Path) -> Path:
    """Write ``report.md``, ``report.csv``, plots, and sheets of the best and worst pictures.

    Results are side by side where they follow one protocol with equal settings. Pictures are looked
    for in the folders that the evaluations were given; a warning counts those that are gone.

    Args:
        results: JSON files of evaluations.
        out: folder to write to; it can be moved as a whole.

    Returns:
        The Markdown file.

    Raises:
        ValueError: no results, a file that is none, or a folder that cannot be written to; nothing
            is written then.
    """
    if not results:
        raise ValueError("there are no results to report; give JSON files of diffusteer evaluate")
    found = {path: _read(path) for path in results}
    check_writable(out)
    (out / PICTURES).mkdir(parents=True, exist_ok=True)
    lines = ["# Evaluation report"]
    lost: list[Path] = []
    for protocol, groups in grouped(found).items():
        for number, group in enumerate(groups, 1):
            title = protocol if number == 1 else f"{protocol} {number}"
            lines.append(f"## {markdown.escape(title)}")
            if number > 1:
                lines.append(markdown.differences(groups[0], group))
            lines += _numbers(group, slug(title), out)
            drawn = [draw_sheets(*item, out / PICTURES) for item in group.items()]
            lines += markdown.gallery([sheet for some in drawn for sheet in some.sheets], PICTURES)
            lost += [path for some in drawn for path in some.lost]
    if lost:
        _log.warning(
            "%d pictures cannot be read and are not shown, the first is %s",
            *(len(lost), lost[0]),
        )
    write_file(out / "report.csv", csv_table(found).encode())
    page = out / "report.md"
    write_file(page, ("\n\n".join(lines) + "\n").encode())
    return page


def _read(path: Path) -> Result:
    result = Result.read(path)
    return replace(result, provenance={"result": str(path), **result.provenance})


def csv_table(results: Mapping[Path, Result]) -> str:
    """One row for each score; nothing where there is no number."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["file", "protocol", "metric", "value", "low", "high", "n", "better"])
    for path, result in results.items():
        for score in result.scores:
            value = None if math.isnan(score.value) else score.value
            bounds = score.interval or (None, None)
            writer.writerow(
                [path, result.protocol, score.metric, value, *bounds, score.n, score.better]
            )
    return text.getvalue()


def _numbers(group: Group, name: str, out: Path) -> list[str]:
    """Tables and plots of results that can be compared."""
    scores = scores_of(group)
    plots = {name: plot_scores(scores, list(group))}
    if len(group) > 1 and likenesses(scores):
        plots[f"{name}-fidelity"] = plot_fidelity(scores)
    for file, figure in plots.items():
        _write_figure(figure, out / f"{file}.png")
    return [
        markdown.score_table(scores, list(group)),
        *(f"![{file}]({file}.png)" for file in plots),
        markdown.definitions(scores),
        "### How it was made",
        markdown.settings_table(group),
        markdown.provenance_table(group),
        *markdown.left_out(group),
    ]


def _write_figure(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks are drawn as boxes
        figure.savefig(content, dpi=110)
    write_file(path, content.getvalue())
