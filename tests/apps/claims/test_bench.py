"""Cells are measured once, kept, and measured again when a setting changes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from apps.claims.cells import Cell
from apps.claims.measure import SCORED, Bench
from apps.claims.requests import draw_requests
from apps.claims.scores import draw_scenes
from apps.claims.store import Measured, Store
from apps.claims.summary import Summary
from apps.emblem.world import rarity
from guidance import CFG, guide

CELL = Cell(name="guided", claim="settings", rule="CFG(3)", steps=2)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(Store(tmp_path_factory.mktemp("cells")), images=4, seed=7)


@pytest.fixture(scope="module")
def measured(bench: Bench) -> Measured:
    return bench.measure(CELL, lambda done: None)


def test_pictures_are_those_of_the_pipeline_itself(bench: Bench, measured: Measured) -> None:
    requests = draw_requests("pairs", 4, seed=7)
    images = bench.pipeline("emblem-unet")(
        prompt=[request.prompt for request in requests],
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(seed) for seed in range(7, 11)],
        output_type="pt",
    ).images
    assert torch.equal(measured.images, images.mul(255).round().byte())
    assert measured.evaluations == 4


def test_a_finished_cell_is_kept(bench: Bench, measured: Measured) -> None:
    found = bench.find(CELL)
    assert found is not None
    assert torch.equal(found.images, measured.images)
    assert torch.equal(found.features, measured.features)
    assert found.values.keys() == measured.values.keys()
    for name, value in found.values.items():
        torch.testing.assert_close(value, measured.values[name], equal_nan=True)
    assert (found.evaluations, found.settings) == (measured.evaluations, measured.settings)


@pytest.mark.parametrize(
    "changes",
    [{"rule": "CFG(4)"}, {"steps": 3}, {"prompts": "unsaid"}, {"negative": True}],
)
def test_a_changed_cell_counts_as_not_measured(
    bench: Bench, measured: Measured, changes: dict[str, object]
) -> None:
    assert bench.find(replace(CELL, **changes)) is None  # type: ignore[arg-type]


def test_other_seeds_numbers_and_weights_count_as_not_measured(
    bench: Bench, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Bench(bench.store, images=4, seed=8).find(CELL) is None
    assert Bench(bench.store, images=6, seed=7).find(CELL) is None
    assert Bench(bench.store, images=4, seed=7).find(CELL) is not None
    monkeypatch.setattr("apps.claims.measure.fingerprint", lambda name: "other")
    assert bench.find(CELL) is None


def test_networks_count_by_their_weights(
    bench: Bench, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    weak = replace(CELL, networks=("emblem-unet-weak",))
    assert bench.find(weak) is None
    before = bench.settings(weak)
    assert bench.settings(CELL) == {k: v for k, v in before.items() if k != "networks"}
    monkeypatch.setattr("apps.claims.measure.fingerprint", lambda name: "other")
    assert bench.settings(weak)["networks"] == {"emblem-unet-weak": "other"} != before["networks"]


def test_a_cell_without_its_json_does_not_count(tmp_path: Path, measured: Measured) -> None:
    store = Store(tmp_path)
    store.write("cell", measured)
    (tmp_path / "cell.json").unlink()
    assert store.read("cell", measured.settings) is None


def test_negatives_reach_the_pipeline_and_the_rule(bench: Bench) -> None:
    seen: list[tuple[str, ...]] = []

    def make(material: object) -> CFG:
        seen.append(material.negatives)  # type: ignore[attr-defined]
        return CFG(3)

    cell = replace(CELL, name="plain", prompts="unsaid", make=make)
    plain = bench.measure(cell, lambda done: None)
    negated = bench.measure(replace(cell, name="negated", negative=True), lambda done: None)
    requests = draw_requests("unsaid", 4, seed=7)
    assert seen == [tuple(request.negative for request in requests)] * 2
    assert not torch.equal(plain.images, negated.images)
    pipe = bench.pipeline("emblem-unet")
    with guide(pipe, CFG(3)):
        images = pipe(
            prompt=[request.prompt for request in requests],
            negative_prompt=[request.negative for request in requests],
            num_inference_steps=2,
            generator=[torch.Generator().manual_seed(seed) for seed in range(7, 11)],
            output_type="pt",
        ).images
    assert torch.equal(negated.images, images.mul(255).round().byte())


def test_scales_that_are_chosen_picture_by_picture_are_kept(bench: Bench) -> None:
    rule = "DynamicCFG((1, 3), Saturation(0), default=3)"
    cell = replace(CELL, name="chosen", rule=rule, steps=3)
    scales = bench.measure(cell, lambda done: None).scales
    assert scales is not None
    assert scales.shape == (4, 3)
    assert set(scales.flatten().tolist()) <= {1.0, 3.0}
    found = bench.find(cell)
    assert found is not None and found.scales is not None
    assert torch.equal(found.scales, scales)


def test_one_scale_for_all_pictures_is_none_of_theirs(bench: Bench, measured: Measured) -> None:
    found = bench.find(CELL)
    assert measured.scales is None
    assert found is not None and found.scales is None


def test_scored_cells_score_fresh_renders(bench: Bench) -> None:
    def brightness(pipe: object, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean((1, 2, 3))

    cell = replace(CELL, name="scored", score=brightness)
    found = bench.measure(cell, lambda done: None)
    pixels, scenes = draw_scenes(4, 7 + SCORED)
    assert torch.equal(found.values["score"], pixels.mean((1, 2, 3)))
    assert found.values["rarity"].tolist() == pytest.approx([rarity(scene) for scene in scenes])
    (row,) = Summary(bench, ("fid",)).rows([cell])
    assert row["measures"].keys() == {"correlation", "correlation_single"}


def test_a_cell_differs_from_itself_by_nothing(bench: Bench, measured: Measured) -> None:
    pytest.importorskip("torchmetrics")
    again = replace(CELL, name="again", baseline="guided")
    bench.measure(again, lambda done: None)
    base, row, truth = Summary(bench).rows([CELL, again])
    assert base["baseline"] is None
    assert base["differences"] == {}
    assert row["measures"]["ssim"]["low"] == pytest.approx(1, abs=1e-4)
    for name, difference in row["differences"].items():
        assert difference == {"value": 0, "low": 0, "high": 0}, name
    assert truth["measures"]["accuracy"]["value"] == 1
    assert truth["claim"] == "truth"
