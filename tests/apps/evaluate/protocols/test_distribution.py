"""The distribution protocol on folders of Emblem pictures."""

from __future__ import annotations

import logging
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from apps.emblem.data import export, export_photos
from apps.evaluate.metrics import density_coverage, precision_recall
from apps.evaluate.networks.extractors import Extractor, load_extractor
from apps.evaluate.protocols.distribution import distribution
from apps.evaluate.result import Result
from apps.evaluate.settings import EvaluateSettings
from apps.shipped import shipped


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Twice 48 pictures of one law."""
    root = tmp_path_factory.mktemp("halves")
    for seed in (0, 1):
        export(root / str(seed), 48, seed)
    return root / "0", root / "1"


@pytest.fixture(scope="module")
def concept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 pictures of one concept only."""
    folder = tmp_path_factory.mktemp("law") / "concept"
    export_photos(folder, "a striped green ring", 48, seed=0)
    return folder


def _scores(result: Result) -> dict[str, float]:
    return {score.metric: score.value for score in result.scores}


def _some(folder: Path, to: Path, number: int) -> Path:
    to.mkdir()
    for path in sorted(folder.glob("*.png"))[:number]:
        shutil.copy(path, to)
    return to


def test_a_folder_against_itself(halves: tuple[Path, Path], settings: EvaluateSettings) -> None:
    found = distribution(halves[0], halves[0], settings=settings)
    assert abs(found["fid"].value) <= 1e-3
    assert [found[name].value for name in ("precision", "recall", "coverage")] == [1, 1, 1]
    assert found["density"].value == pytest.approx(6 / 5)  # its own ball, and 5 others on average
    assert found["kid"].value < 0  # its own pairs count across and not within
    assert 1 < found["vendi"].value < 48


def test_another_law_is_farther_than_a_half_of_the_same(
    halves: tuple[Path, Path], concept: Path, settings: EvaluateSettings
) -> None:
    same = _scores(distribution(halves[0], halves[1], settings=settings))
    other = _scores(distribution(concept, halves[1], settings=settings))
    assert other["fid"] > 2 * same["fid"]
    assert other["kid"] > 10 * abs(same["kid"])
    assert other["recall"] < 0.5 < same["recall"]
    assert other["coverage"] < 0.5 < same["coverage"]
    assert other["vendi"] < 0.7 * same["vendi"]


class Network(nn.Module):
    """An extractor as torchmetrics wants it."""

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = extractor
        self.num_features = extractor.dimension

    def forward(self, pixels: Tensor) -> Tensor:
        images = [Image.fromarray(np.asarray(x.permute(1, 2, 0))) for x in pixels]
        return self.extractor.features(torch.stack([*map(self.extractor.prepare, images)]))


def _pixels(folder: Path) -> Tensor:
    images = [np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def test_fid_and_kid_are_those_of_torchmetrics(
    halves: tuple[Path, Path], settings: EvaluateSettings
) -> None:
    fid = pytest.importorskip("torchmetrics.image.fid").FrechetInceptionDistance
    kid = pytest.importorskip("torchmetrics.image.kid").KernelInceptionDistance
    found = distribution(halves[0], halves[1], settings=settings)
    network = Network(load_extractor("emblem-classifier"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = fid(feature=network), kid(feature=network, subsets=1, subset_size=48)
    for metric in metrics:
        metric.set_dtype(torch.float64)
        metric.update(_pixels(halves[1]), real=True)
        metric.update(_pixels(halves[0]), real=False)
    assert found["fid"].value == pytest.approx(metrics[0].compute().item(), rel=1e-6)
    assert found["kid"].value == pytest.approx(metrics[1].compute()[0].item(), rel=1e-4, abs=1e-4)


def test_density_is_that_of_each_picture(
    halves: tuple[Path, Path], settings: EvaluateSettings
) -> None:
    found = distribution(halves[0], halves[1], metrics=["prdc"], settings=settings)
    network = Network(load_extractor("emblem-classifier"))
    fake, real = (network(_pixels(folder)).double() for folder in halves)
    assert found["recall"].value == pytest.approx(precision_recall(real, fake, k=3).recall)
    assert found["density"].value == pytest.approx(density_coverage(real, fake, k=5).density)
    assert found.images is not None
    own = dict(zip(found.images.names, found.images.values["density"], strict=True))
    names = sorted(path.name for path in halves[0].glob("*.png"))
    alone = [density_coverage(real, fake[[row, row]], k=5).density for row in range(48)]
    assert [own[name] for name in names] == pytest.approx(alone)


def test_order_names_and_batches_do_not_matter(
    halves: tuple[Path, Path], tmp_path: Path, settings: EvaluateSettings
) -> None:
    expected = distribution(*halves, settings=settings)
    for number, path in enumerate(sorted(halves[0].glob("*.png"))):
        place = tmp_path / "renamed" / str(number % 3)
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / f"{97 * number % 48}.png")
    other = replace(settings, cache=None, batch_size=7)
    found = distribution(tmp_path / "renamed", halves[1], settings=other)
    assert _scores(found) == pytest.approx(_scores(expected), rel=1e-6)
    for one, two in zip(found.scores, expected.scores, strict=True):
        assert (one.interval or ()) == pytest.approx(two.interval or (), rel=1e-6)
    assert found.settings == expected.settings


def test_only_the_chosen_metrics_are_measured(
    halves: tuple[Path, Path], settings: EvaluateSettings
) -> None:
    found = distribution(*halves, metrics=["vendi", "kid"], settings=settings)
    assert [score.metric for score in found.scores] == ["kid", "vendi"]
    assert found.images is not None
    assert found.images.values == {}
    with pytest.raises(ValueError, match="no metric 'is'; expected any of fid, kid, prdc, vendi"):
        distribution(*halves, metrics=["fid", "is"], settings=settings)


@pytest.mark.parametrize(
    ("generated", "real", "words"),
    [
        (0, 9, "'.*generated' holds no pictures"),
        (9, 0, "'.*real' holds no pictures"),
        (1, 9, "'.*generated' holds 1 picture that can be read; at least 2"),
        (9, 1, "'.*real' holds 1 picture"),
        (3, 9, "found 3 generated and 9 real pictures; precision, recall"),
        (9, 5, "found 9 generated and 5 real pictures; precision, recall"),
    ],
)
def test_too_few_pictures_are_refused(
    halves: tuple[Path, Path],
    tmp_path: Path,
    settings: EvaluateSettings,
    generated: int,
    real: int,
    words: str,
) -> None:
    sides = (
        _some(halves[0], tmp_path / "generated", generated),
        _some(halves[1], tmp_path / "real", real),
    )
    with pytest.raises(ValueError, match=words):
        distribution(*sides, settings=settings)


def test_two_pictures_have_values_without_intervals(
    halves: tuple[Path, Path], tmp_path: Path, settings: EvaluateSettings
) -> None:
    two = _some(halves[0], tmp_path / "two", 2)
    found = distribution(two, halves[1], metrics=["fid", "kid", "vendi"], settings=settings)
    assert [score.interval for score in found.scores] == [None] * 3


def test_few_pictures_and_other_sizes_are_told(
    halves: tuple[Path, Path],
    tmp_path: Path,
    settings: EvaluateSettings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    small = _some(halves[1], tmp_path / "small", 20)
    for number, path in enumerate(sorted(small.iterdir())):
        with Image.open(path) as image:
            image.resize((48 + number // 19, 32)).save(path)
    with caplog.at_level(logging.WARNING, "diffusteer"):
        distribution(halves[0], small, metrics=["fid"], settings=settings)
    sizes, few, fewer = caplog.messages
    assert few.startswith(f"48 pictures in '{halves[0]}' are no more than the 176 features of emb")
    assert fewer.startswith(f"20 pictures in '{small}'")
    assert "FID is biased upwards" in few
    assert sizes == (
        "generated pictures are 64 x 64, real ones 48 x 32 and 1 other sizes: resizing alone moves "
        "these metrics"
    )


def test_enough_pictures_or_no_fid_need_no_warning(
    halves: tuple[Path, Path],
    tmp_path: Path,
    settings: EvaluateSettings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    export(tmp_path / "many", 177, seed=2)
    with caplog.at_level(logging.WARNING, "diffusteer"):
        distribution(*halves, metrics=["kid", "prdc", "vendi"], settings=settings)
        distribution(tmp_path / "many", tmp_path / "many", metrics=["fid"], settings=settings)
    assert caplog.messages == []
    (tmp_path / "many" / "000000.png").unlink()
    with caplog.at_level(logging.WARNING, "diffusteer"):
        distribution(tmp_path / "many", tmp_path / "many", metrics=["fid"], settings=settings)
    assert len(caplog.messages) == 2


def test_the_result_says_how_it_was_made(
    halves: tuple[Path, Path], tmp_path: Path, settings: EvaluateSettings
) -> None:
    found = distribution(*halves, settings=replace(settings, seed=3))
    found.write(tmp_path / "result.json")
    read = Result.read(tmp_path / "result.json")
    extractor = read.settings["extractor"]
    network = load_extractor("emblem-classifier")
    assert extractor == network.describe()
    assert (shipped("emblem-classifier") / "model.safetensors").exists()
    assert len(extractor["weights"]) == 64
    assert (extractor["resampling"], extractor["antialias"]) == ("bicubic", True)
    assert (extractor["size"], extractor["dtype"]) == ({"height": 64, "width": 64}, "float32")
    assert (read.settings["pictures"], read.settings["seed"]) == (48, 3)
    assert read.settings["reference"]["pictures"] == 48
    assert {score.n for score in read.scores} == {48}
    assert all(score.about and score.better in ("higher", "lower") for score in read.scores)
    versions = read.provenance["versions"]
    assert {"diffusteer", "torch", "transformers", "pillow", "python"} <= versions.keys()
    assert (read.provenance["device"], read.provenance["processes"]) == ("cpu", 1)
