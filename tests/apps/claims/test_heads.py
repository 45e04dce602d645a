"""Searches for heads and layers: kept once made, and told in full."""

from pathlib import Path

import pytest

from apps.claims import heads
from apps.claims.cells import Material
from apps.claims.head_cells import SCALE, layer
from apps.claims.head_cells import heads as heads_cell
from apps.claims.heads import OBJECTIVES, PROMPTS, Search
from apps.claims.measure import Bench
from apps.claims.requests import draw_requests
from apps.claims.store import Measured, Store
from guidance import HeadSet, SoftPAG


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Material]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"COUNT": 1, "SEEDS": (5,), "STEPS": 1, "K": 1}.items():
            patch.setattr(heads, name, value)
        bench = Bench(Store(tmp_path_factory.mktemp("cells")), images=4, seed=0)
        pipe = bench.pipeline("emblem-unet")
        material = Material(pipe, (), bench.settings(CELL)["weights"], bench.store.folder)
        search(material).heads()
        search(material).layers()
    return bench, material


CELL = heads_cell("emblem-unet", "striped")


def search(material: Material) -> Search:
    return Search(material, "emblem-unet", "striped", SCALE)


def no_pipeline(material: Material) -> Material:
    """Of a search that can only be read."""
    return Material(None, (), material.weights, material.work)


def test_a_finished_search_is_read(made: tuple[Bench, Material]) -> None:
    found = search(no_pipeline(made[1]))
    assert found.heads() == HeadSet.load(found.path).best()
    assert found.heads().objective == "emblem:texture=striped"
    scores = found.layers()
    assert scores[""] == pytest.approx(found.heads().baseline, abs=1e-6)
    assert scores[found.best_layer()] == max(s for name, s in scores.items() if name)


def test_cells_soften_what_was_found(made: tuple[Bench, Material]) -> None:
    material = no_pipeline(made[1])
    assert CELL.build(material) == SoftPAG(SCALE, search(material).heads())
    best = search(material).best_layer()
    assert layer("emblem-unet", "striped").build(material) == SoftPAG(SCALE, best)


def test_a_row_tells_the_search(made: tuple[Bench, Material]) -> None:
    bench, material = made
    measured = Measured(bench.settings(CELL), 0, 0, None, None, {})  # type: ignore[arg-type]
    told = CELL.tell(bench, measured)["search"]
    found = search(no_pipeline(material))
    ((*head, score),) = told["heads"]
    assert [tuple(head)] == list(HeadSet.load(found.path).heads)
    assert score == max(alone for *_, alone in told["alone"])
    assert len(told["alone"]) == 28
    assert told["layers"] == found.layers()


def test_no_cell_shows_a_picture_of_the_search() -> None:
    found = Search(Material(None, (), "", Path()), "emblem-unet", "quality", SCALE)
    assert len(found.prompts) == len(set(found.prompts)) == heads.COUNT
    assert not set(heads.SEEDS) & set(range(512))
    assert found.prompts[0] == draw_requests(PROMPTS, 2, heads.SEED)[0].prompt
    assert heads.SEED != 0


@pytest.mark.parametrize("measure", OBJECTIVES)
def test_searches_are_kept_apart(measure: str, tmp_path: Path) -> None:
    paths = {
        Search(Material(None, (), weights, tmp_path), model, measure, scale).path.name
        for weights in "ab"
        for model in ("emblem-unet", "emblem-dit")
        for scale in (1.0, 3.0)
    }
    assert len(paths) == 8
    assert all(measure in name for name in paths)
