"""The cells of the claims about rules that listen, and the shipped results."""

import json
from pathlib import Path

import pytest
import torch

from apps.claims.cells import Cell, Material
from apps.claims.extras import EXTRAS
from apps.claims.feedback import CELLS, DYNAMIC, SUITE
from apps.claims.measure import Bench
from apps.claims.requests import SETS, Request, draw_requests, likelihood
from apps.claims.results import csv_table
from apps.claims.scale_cells import static
from apps.claims.store import Measured, Store
from apps.emblem.world import MARGINALS, parse, probability
from apps.shipped import shipped
from guidance import Rule

RESULTS = Path(__file__).parents[3] / "assets" / "results" / "claims-feedback.json"


def test_names_are_unique_and_baselines_come_first_with_the_same_prompts() -> None:
    seen: dict[str, Cell] = {}
    for cell in CELLS:
        assert cell.name not in seen
        assert cell.prompts in SETS
        assert set(cell.measures) <= EXTRAS.keys()
        shipped(cell.model)
        if cell.baseline is not None:
            assert seen[cell.baseline].prompts == cell.prompts
            assert seen[cell.baseline].model == cell.model
        seen[cell.name] = cell
    for names in SUITE.grids.values():
        assert set(names) <= seen.keys()


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_the_text_of_a_cell_is_its_rule(cell: Cell, tmp_path: Path) -> None:
    if cell.score or "found for" in cell.rule:
        pytest.skip("draws nothing, or is made by a search")
    for name in cell.networks:
        assert repr(name) in cell.rule
    assert isinstance(cell.build(Material(None, (), "weights", tmp_path)), Rule)


def test_the_judge_guides_no_scale() -> None:
    assert not any("emblem-classifier" in name for cell in DYNAMIC for name in cell.networks)


def test_full_prompts_state_everything_and_untextured_ones_no_texture() -> None:
    for request in draw_requests("full", 40, seed=0):
        goal = parse(request.prompt)
        assert None not in vars(goal.emblems[0]).values()
        assert goal.background
    for request in draw_requests("untextured", 40, seed=0):
        assert parse(request.prompt).emblems[0].texture is None
    for request in draw_requests("shape", 40, seed=0):
        assert len(request.prompt.split()) == 2


def test_a_prompt_is_as_likely_as_all_that_shows_it() -> None:
    full = "a small striped red star on a blue background"
    assert likelihood(Request(full)) == pytest.approx(probability(parse(full)))
    assert likelihood(Request("a star")) == pytest.approx(0.8 * MARGINALS["shape"]["star"])
    assert likelihood(Request("a red star")) < likelihood(Request("a star"))


def test_chosen_scales_are_told_for_rare_and_easy_prompts(tmp_path: Path) -> None:
    bench = Bench(Store(tmp_path), images=16, seed=0)
    cell = next(cell for cell in DYNAMIC if cell.prompts == "pairs")
    often = torch.tensor([likelihood(request) for request in bench.requests("pairs")[::2]])
    scales = torch.zeros(16, 2)
    scales.view(8, 2, 2)[often.argsort()[:2]] = torch.tensor([1.0, 3.0])
    nothing = torch.zeros(16, 3, 64, 64, dtype=torch.uint8), torch.zeros(16, 2)
    measured = Measured(bench.settings(cell), 40, 1, *nothing, {}, scales)
    told = cell.tell(bench, measured)
    assert told["scales"]["rare"] == [1, 3]
    assert told["scales"]["common"] == [0, 0]
    assert told["scales"]["all"] == [0.25, 0.75]
    assert told["prompts_in"] == {"rare": 2, "common": 2}
    plain = static(cell.model, "pairs", 1)
    right = torch.tensor([1.0, 1.0, 1.0, 0.0] + [0.0] * 12)
    bench.store.write(
        plain.name, Measured(bench.settings(plain), 40, 1, *nothing, {"accuracy": right})
    )
    assert cell.tell(bench, measured)["prompts_in"] == {
        "rare": 2,
        "common": 2,
        "easy": 1,
        "hard": 6,
    }


def test_the_shipped_table_is_that_of_the_shipped_results() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    table = RESULTS.with_suffix(".csv").read_text(encoding="utf-8")
    assert csv_table(results["cells"], results["measures"]) == table
    assert results["images"] >= 512
    cells = {cell.name: cell for cell in CELLS}
    for row in results["cells"]:
        if row["claim"] != "truth":
            assert row["rule"] == cells[row["cell"]].rule
