"""Numbers in the documentation are those of the result files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.docs.cells import cells, shown
from tests.docs.pages import DOCS, PAGES, ROOT, name_of, read, tables


def measured() -> list[Path]:
    return [page for page in PAGES if any(table[0][0] == "cell" for table in tables(read(page)))]


@pytest.mark.parametrize("page", measured(), ids=name_of)
def test_tables_of_cells_are_those_of_the_claims(page: Path) -> None:
    for columns, *rows in tables(read(page)):
        if columns[0] == "cell":
            for row in rows:
                found = [[shown(cell, name) for name in columns] for cell in cells(row[0][1:-1])]
                assert row in found
            for values in list(zip(*rows, strict=True))[1:]:
                assert any(values), f"an empty column of {name_of(page)}"


def test_the_table_of_claims_is_that_of_the_results() -> None:
    """Evaluations, accuracy, FID and diversity of the table's cells, as they are in the file."""
    results = json.loads((ROOT / "assets/results/claims-guidance.json").read_text())["cells"]
    found = set()
    for cell in results:
        if cell["claim"] in ("settings", "savings"):
            measures = cell["measures"]
            numbers = (
                f"{round(cell['evaluations'], 1):g}",
                f"{100 * measures['accuracy']['value']:.1f} %",
                f"{measures['fid']['value']:.1f}",
                f"{measures['diversity']['value']:.2f}",
            )
            found.add(" | ".join(numbers))
    text = read(DOCS / "measured.md")
    rows = re.findall(r"^\| `.*?\| (\S+ \| \S+ % \| \S+ \| \S+) \|$", text, re.MULTILINE)
    assert len(rows) == 14
    assert set(rows) <= found


def test_the_evaluations_of_the_documentation_are_those_of_the_results() -> None:
    """Each value with its interval, as it is in the files."""
    found = set()
    for path in (ROOT / "assets/results/evaluation").glob("*.json"):
        for score in json.loads(path.read_text())["scores"]:
            numbers = [score["value"], *(score["interval"] or ())]
            for digits in (2, 3):
                value, *bounds = (f"{number:.{digits}f}" for number in numbers)
                found.add(f"{value} ({' to '.join(bounds)})" if bounds else value)
    part = read(DOCS / "evaluation.md").split("## A tour")[1].split("## Extractors")[0]
    values = re.findall(r"(?<=\| )-?\d+\.\d+(?: \([^)]*\))?(?= \|)", part)
    assert len(values) > 20
    assert set(values) <= found


def test_the_scores_of_the_shipped_evaluators_are_those_they_were_trained_to() -> None:
    page = read(DOCS / "evaluators.md")
    for name in ("alignment", "reward", "classifier", "discriminator-unet", "discriminator-dit"):
        config = ROOT / "assets" / "emblem-evaluators" / name / "config.json"
        scores = json.loads(config.read_text())["training"]["scores"]
        by_noise = {row["sigma"][0]: f"{row['score']:.2f}" for row in scores}
        expected = [by_noise.get(low, "") for low in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)]
        (row,) = re.findall(
            rf"^\| {name}(?: \([^|]*\)|, scales[^|]*)? \|(.*)\|$", page, re.MULTILINE
        )
        assert [cell.strip() for cell in row.split("|")] == expected
