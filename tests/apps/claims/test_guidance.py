"""The cells of the guidance claims, and the shipped results."""

import json
from pathlib import Path

import pytest

from apps.claims.cells import Cell, Material
from apps.claims.guidance import CELLS, SUITE
from apps.claims.requests import SETS
from apps.claims.results import csv_table
from apps.shipped import shipped
from guidance import Rule

RESULTS = Path(__file__).parents[3] / "assets" / "results" / "claims-guidance.json"


def test_names_are_unique_and_baselines_come_first_with_the_same_prompts() -> None:
    seen: dict[str, Cell] = {}
    for cell in CELLS:
        assert cell.name not in seen
        assert cell.prompts in SETS
        shipped(cell.model)
        if cell.baseline is not None:
            assert seen[cell.baseline].prompts == cell.prompts
            assert seen[cell.baseline].model == cell.model
        seen[cell.name] = cell
    for names in SUITE.grids.values():
        assert set(names) <= seen.keys()


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_the_text_of_a_cell_names_its_rule(cell: Cell, tmp_path: Path) -> None:
    if "fitted" in cell.rule:
        pytest.skip("is made by a fit")
    rule = cell.build(Material(None, ("a red star",), "weights", tmp_path))
    assert isinstance(rule, Rule)
    assert cell.rule.split("(")[0] in repr(rule)


def test_the_shipped_table_is_that_of_the_shipped_results() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert csv_table(results["cells"], results["measures"]) == RESULTS.with_suffix(
        ".csv"
    ).read_text(encoding="utf-8")
    assert results["images"] >= 512
    cells = {cell.name: cell for cell in CELLS}
    for row in results["cells"]:
        if row["claim"] != "truth":
            assert row["rule"] == cells[row["cell"]].rule
