"""Files of statistics: what is written is read back, and what is no such file is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from apps.evaluate.numbers.moments import Moments
from apps.evaluate.numbers.saved_moments import read_statistics, write_statistics
from apps.evaluate.protocols.distribution import distribution, statistics
from apps.evaluate.settings import EvaluateSettings
from tests.apps.evaluate.numbers.test_moments import draw

ABOUT = {"name": "net", "kind": "classifier", "size": {"height": 64, "width": 64}}


@pytest.fixture
def file(emblems: Path, tmp_path: Path, settings: EvaluateSettings) -> Path:
    """Statistics of the Emblem pictures."""
    file = tmp_path / "made" / "real.safetensors"
    statistics(emblems, file, settings=settings)
    return file


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    moments = Moments.of(draw(9, 4))
    write_statistics(tmp_path / "s.safetensors", moments, ABOUT, "abc")
    found = read_statistics(tmp_path / "s.safetensors")
    assert found.extractor == ABOUT
    assert found.about == {"pictures": 9, "fingerprint": "abc"}
    assert found.moments.count == 9
    assert torch.equal(found.moments.mean, moments.mean)
    torch.testing.assert_close(found.moments.scatter, moments.scatter, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_an_npz_of_other_programs_tells_no_extractor(tmp_path: Path, dtype: Any) -> None:
    features = draw(9, 4).numpy()
    mu, sigma = features.mean(0).astype(dtype), np.cov(features.T).astype(dtype)
    np.savez(tmp_path / "s.npz", mu=mu, sigma=sigma, other=np.zeros(3))
    found = read_statistics(tmp_path / "s.npz")
    assert found.extractor is None
    assert list(found.about) == ["file"]
    assert found.moments.mean.tolist() == mu.tolist()
    assert found.moments.covariance.tolist() == sigma.tolist()
    np.savez(tmp_path / "t.npz", mu=mu + 1, sigma=sigma)
    assert read_statistics(tmp_path / "t.npz").about != found.about


def test_a_file_gives_the_distance_of_its_folder(
    file: Path, emblems: Path, tmp_path: Path, other: Path, settings: EvaluateSettings
) -> None:
    folder = distribution(other, emblems, metrics=["fid", "vendi"], settings=settings)
    from_file = distribution(other, file, metrics=["vendi", "fid"], settings=settings)
    assert from_file["fid"].value == pytest.approx(folder["fid"].value, rel=1e-9)
    assert from_file["fid"].interval == pytest.approx(folder["fid"].interval, rel=1e-9)
    assert from_file["vendi"] == folder["vendi"]
    for key in ("extractor", "pictures", "reference"):
        assert from_file.settings[key] == folder.settings[key]

    with safe_open(file, "np") as tensors:
        arrays = {"mu": tensors.get_tensor("mean"), "sigma": tensors.get_tensor("covariance")}
    np.savez(tmp_path / "real.npz", **arrays)
    npz = distribution(other, tmp_path / "real.npz", metrics=["fid"], settings=settings)
    assert npz["fid"].value == pytest.approx(folder["fid"].value, rel=1e-9)
    assert npz.settings["reference"].keys() == {"file"}


def test_a_file_serves_no_other_metrics_and_says_so(
    file: Path, other: Path, settings: EvaluateSettings, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "diffusteer"):
        found = distribution(other, file, settings=settings)
    assert [score.metric for score in found.scores] == ["fid", "vendi"]
    assert "statistics serve fid and vendi; kid and prdc need the pictures" in caplog.messages
    for metric in ("kid", "prdc"):
        with pytest.raises(ValueError, match=f"serve fid and vendi only, found {metric}; give"):
            distribution(other, file, metrics=["fid", metric], settings=settings)


def test_another_extractor_is_refused_by_what_differs(
    file: Path, other: Path, settings: EvaluateSettings
) -> None:
    with pytest.raises(ValueError, match=r"kind is 'classifier' and 'clip'.*same extractor"):
        distribution(other, file, "emblem-clip", ["fid"], settings)

    known = read_statistics(file)
    assert known.extractor is not None
    changed = json.loads(json.dumps(known.extractor)) | {"name": "elsewhere", "weights": "0"}
    changed["size"]["width"] = 32
    write_statistics(file, known.moments, changed, "")
    with pytest.raises(ValueError, match="in another way: weights is '0' and") as error:
        distribution(other, file, metrics=["fid"], settings=settings)
    assert "size.width is 32 and 64" in str(error.value)
    assert "height" not in str(error.value)
    assert "elsewhere" not in str(error.value)


def test_statistics_of_another_width_are_refused(
    other: Path, tmp_path: Path, settings: EvaluateSettings
) -> None:
    np.savez(tmp_path / "s.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match="is of 3 features and emblem-classifier gives 176"):
        distribution(other, tmp_path / "s.npz", metrics=["fid"], settings=settings)


@pytest.mark.parametrize(
    ("mu", "sigma", "words"),
    [
        (np.zeros((1, 3)), np.eye(3), r"a mean of shape \(1, 3\)"),
        (np.zeros(3), np.eye(4), r"a covariance of \(4, 4\); expected \(D,\)"),
        (np.zeros(3), np.zeros(3), r"a covariance of \(3,\)"),
        (np.full(3, np.nan), np.eye(3), "not finite"),
        (np.zeros(2), np.diag([1, np.inf]), "not finite"),
        (np.array([None, None]), np.eye(2), "holds no statistics"),
        (np.array(["a"]), np.eye(1), "holds no statistics"),
    ],
)
def test_arrays_that_are_no_moments_are_refused(
    tmp_path: Path, mu: Any, sigma: Any, words: str
) -> None:
    np.savez(tmp_path / "s.npz", mu=mu, sigma=sigma)
    with pytest.raises(ValueError, match=words) as error:
        read_statistics(tmp_path / "s.npz")
    assert "\n" not in str(error.value)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    trap = np.array([Trap(tmp_path / "sprung")], dtype=object)
    np.savez(tmp_path / "s.npz", mu=trap, sigma=np.eye(1))
    with pytest.raises(ValueError, match="holds no statistics"):
        read_statistics(tmp_path / "s.npz")
    assert not (tmp_path / "sprung").exists()


def _truncated(path: Path) -> None:
    np.savez_compressed(path, mu=np.random.default_rng(0).random(999), sigma=np.eye(3))
    path.write_bytes(path.read_bytes()[:900])


def _overwritten(path: Path, start: int, byte: bytes) -> None:
    np.savez_compressed(path, mu=np.random.default_rng(0).random(999), sigma=np.eye(3))
    content = bytearray(path.read_bytes())
    content[start : start + 20] = 20 * byte
    path.write_bytes(content)


def _one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("absent.npz", lambda path: None),
        ("absent.safetensors", lambda path: None),
        ("folder.npz", Path.mkdir),
        ("empty.npz", Path.touch),
        ("empty.safetensors", Path.touch),
        ("text.npz", lambda path: path.write_text("mu sigma")),
        ("text.safetensors", lambda path: path.write_text("mean covariance")),
        ("truncated.npz", _truncated),
        ("checksum.npz", lambda path: _overwritten(path, 300, b"\x00")),
        ("deflate.npz", lambda path: _overwritten(path, 60, b"\xff")),
        ("lacking.npz", lambda path: np.savez(path, mu=np.zeros(3))),
        ("one.npz", _one_array),
        ("model.safetensors", lambda path: save_file({"weight": torch.zeros(3)}, path)),
        (
            "plain.safetensors",
            lambda path: save_file({"mean": torch.zeros(2), "covariance": torch.eye(2)}, path),
        ),
    ],
)
def test_a_file_of_something_else_is_one_line(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name)
    with pytest.raises(ValueError, match=r"holds no statistics .*expected a file of") as error:
        read_statistics(tmp_path / name)
    assert "\n" not in str(error.value)


def test_one_picture_has_no_statistics(
    emblems: Path, tmp_path: Path, settings: EvaluateSettings
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").write_bytes((emblems / "000000.png").read_bytes())
    with pytest.raises(ValueError, match=r"holds 1 picture .* at least 2"):
        statistics(tmp_path / "one", tmp_path / "s.safetensors", settings=settings)
    assert not (tmp_path / "s.safetensors").exists()


@pytest.fixture
def other(tmp_path: Path, emblems: Path) -> Path:
    """The first dozen of the Emblem pictures."""
    folder = tmp_path / "other"
    folder.mkdir()
    for path in sorted(emblems.glob("*.png"))[:12]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder
