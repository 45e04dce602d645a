"""Plots of the claims about rules that listen show every row of their claim."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.claims.cells import Cell
from apps.claims.feedback import CELLS, SUITE
from apps.claims.feedback_figures import (
    draw_figures,
    plot_chosen,
    plot_classes,
    plot_minority,
    plot_scores,
    plot_trade,
)
from apps.claims.head_figures import plot_found, plot_heads

SEARCH = {
    "objective": "clip",
    "none": 0.5,
    "heads": [["blocks.1.attn", 1, 0.7], ["blocks.0.attn", 0, 0.6]],
    "taken": 1,
    "alone": [[f"blocks.{n}.attn", head, 0.5 + 0.1 * n * head] for n in (0, 1) for head in (0, 1)],
    "layers": {"": 0.5, "blocks.0.attn": 0.4, "blocks.1.attn": 0.6},
}

HALF = {"value": 0.5, "low": 0.4, "high": 0.6}

LINES = ("all", "rare", "common", "10 %", "90 %")
SCALES = {"scales": {name: [1.0, 2.0] for name in LINES}, "prompts_in": {"rare": 3, "common": 3}}


def row(cell: Cell) -> dict[str, Any]:
    """A row with every measure at a half, and what its kind tells beside."""
    about = {name: getattr(cell, name) for name in ("claim", "series", "knobs", "rule", "prompts")}
    about |= {"cell": cell.name, "model": cell.model, "baseline": cell.baseline}
    measures = dict.fromkeys(SUITE.measures, HALF)
    about |= {"measures": measures}
    if "heads found" in cell.rule:
        about |= {"search": SEARCH}
    return about | (SCALES if "Dynamic" in cell.rule else {})


ROWS = [*map(row, CELLS), row(Cell(name="renders-pairs", claim="truth", rule="", prompts="pairs"))]


def test_all_plots_are_written(tmp_path: Path) -> None:
    draw_figures(ROWS, tmp_path)
    names = ["chosen", "classes", "found", "heads", "minority", "scales", "scores"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"claims-feedback-{name}.png" for name in names
    ]


def test_plots_of_claims_without_a_row_are_not_written(tmp_path: Path) -> None:
    draw_figures(ROWS[:1], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["claims-feedback-heads.png"]


def test_heads_have_a_line_each_and_a_panel_for_each_measure() -> None:
    figure = plot_heads(ROWS)
    assert figure is not None
    assert len(figure.axes) == 2 * 6
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    mine = [cell for cell in CELLS if cell.claim == "heads-unet"]
    assert labels == [cell.series for cell in mine]


def test_each_search_has_a_map_with_the_heads_that_were_taken() -> None:
    figure = plot_found(ROWS)
    assert figure is not None
    maps = [axis for axis in figure.axes if axis.get_images()]
    assert len(maps) == 6
    assert [text.get_text() for text in maps[0].texts] == ["1"]
    assert maps[0].texts[0].get_position() == (1, 1)
    assert [label.get_text() for label in maps[0].get_yticklabels()] == ["blocks.0", "> blocks.1"]


@pytest.mark.parametrize(("plot", "claim"), [(plot_trade, "scales"), (plot_minority, "minority")])
def test_every_series_is_a_curve(plot: Any, claim: str) -> None:
    mine = [cell for cell in CELLS if cell.claim.startswith(claim)]
    axes = plot(ROWS).axes
    assert {axis.get_title() for axis in axes} == {cell.claim for cell in mine}
    for axis in axes:
        series = {cell.series for cell in mine if cell.claim == axis.get_title()}
        assert set(axis.get_legend_handles_labels()[1]) == series


def test_chosen_scales_have_a_panel_for_each_cell_and_a_line_for_each_group() -> None:
    figure = plot_chosen(ROWS)
    assert figure is not None
    shown = [axis for axis in figure.axes if axis.axison]
    assert len(shown) == sum("Dynamic" in cell.rule for cell in CELLS)
    assert shown[0].get_legend_handles_labels()[1] == ["common (3)", "rare (3)"]


def test_classes_are_shown_after_what_they_are_compared_with() -> None:
    figure = plot_classes(ROWS)
    assert figure is not None
    compared = {cell.baseline for cell in CELLS if cell.claim == "classes-dit"}
    mine = [cell for cell in CELLS if cell.claim == "classes-dit"]
    assert len(figure.axes[4].get_yticklabels()) == len(compared) + len(mine)


def test_scores_have_a_curve_for_each_kind_of_score() -> None:
    figure = plot_scores(ROWS)
    assert figure is not None
    for axis in figure.axes:
        mine = [cell for cell in CELLS if cell.claim == axis.get_title()]
        assert axis.get_legend_handles_labels()[1] == list(dict.fromkeys(c.series for c in mine))


def test_static_scales_follow_each_other_whatever_their_fid() -> None:
    mine = [cell for cell in CELLS if cell.claim == "scales-unet-pairs" and cell.series == "static"]
    rows = [row(cell) for cell in mine]
    for number, each in enumerate(rows):
        fid = (number * 3) % len(rows)
        each["measures"] = each["measures"] | {"fid": {"value": fid, "low": fid, "high": fid}}
    figure = plot_trade(rows)
    assert figure is not None
    (line, *_) = figure.axes[0].get_lines()
    xs = np.asarray(line.get_xdata()).tolist()
    assert xs == [(number * 3) % len(rows) for number in range(len(rows))]
