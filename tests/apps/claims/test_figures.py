"""Plots show every row of their claim."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apps.claims.cells import Cell
from apps.claims.estimates import MEASURES
from apps.claims.figures import (
    draw_figures,
    plot_negatives,
    plot_savings,
    plot_settings,
    plot_strengths,
)
from apps.claims.grids import draw_grid
from apps.claims.guidance import CELLS
from apps.claims.measure import Bench
from apps.claims.store import Store


def row(cell: Cell) -> dict[str, Any]:
    """A row with every measure at a half."""
    about = {name: getattr(cell, name) for name in ("claim", "series", "knobs", "rule", "prompts")}
    about |= {"cell": cell.name, "steps": cell.steps, "baseline": cell.baseline}
    half = {"value": 0.5, "low": 0.4, "high": 0.6}
    measures = dict.fromkeys(MEASURES, half)
    differences = measures if cell.baseline else {}
    return about | {"evaluations": 40.0, "measures": measures, "differences": differences}


TRUTH = row(Cell(name="renders-pairs", claim="truth", rule="", prompts="pairs"))
ROWS = [*map(row, CELLS), TRUTH]


def test_all_plots_are_written(tmp_path: Path) -> None:
    draw_figures(ROWS, tmp_path)
    names = ["negatives", "savings", "settings", "soft-pag"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"claims-guidance-{name}.png" for name in names
    ]


def test_plots_of_claims_without_a_row_are_not_written(tmp_path: Path) -> None:
    draw_figures([row(CELLS[0]), row(CELLS[1]), TRUTH], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["claims-guidance-settings.png"]


def test_the_table_of_rules_has_a_line_for_each() -> None:
    labels = [label.get_text() for label in plot_settings(ROWS).axes[0].get_yticklabels()]
    assert len(labels) == sum(cell.claim == "settings" for cell in CELLS) - 1
    assert labels[0] == "CFG(1)  [40]"


@pytest.mark.parametrize(
    ("plot", "series"),
    [
        (plot_negatives, {"no negative", "negative prompt", "PerpNeg"}),
        (plot_savings, {"CFG, fewer steps", "AdaptiveGuidance", "LinearAG", "CFG, then none"}),
    ],
)
def test_every_series_is_a_curve(plot: Any, series: set[str]) -> None:
    for axis in plot(ROWS).axes:
        assert set(axis.get_legend_handles_labels()[1]) == series


def test_strengths_have_a_line_of_panels_for_each_model_also_without_the_baseline() -> None:
    soft = [each for each in ROWS if each["claim"].startswith("soft-pag")]
    assert len(plot_strengths(soft).axes) == 3 * len({each["claim"] for each in soft})


def test_a_grid_has_a_line_for_each_finished_cell(tmp_path: Path) -> None:
    bench = Bench(Store(tmp_path / "cells"), images=4, seed=0)
    cells = [Cell(name=name, claim="soft", rule="CFG(2)", steps=1) for name in "ab"]
    path = tmp_path / "grid.png"
    draw_grid(bench, cells, path)
    assert not path.exists()
    sizes = []
    for cell in cells:
        bench.measure(cell, lambda done: None)
        draw_grid(bench, cells, path)
        with Image.open(path) as image:
            sizes.append(image.height)
    assert sizes[1] == pytest.approx(2 * sizes[0], abs=16)
