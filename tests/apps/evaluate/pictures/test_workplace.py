"""Features do not depend on names, order or batches, are made once, and leave nothing behind."""

from __future__ import annotations

import logging
import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from apps.evaluate.pictures.features import Features
from apps.evaluate.pictures.workplace import Workplace
from apps.evaluate.protocols.emblem import emblem
from apps.evaluate.result import Result
from apps.evaluate.settings import EvaluateSettings
from tests.apps.evaluate.tiny_networks import picture


class Live:
    """Counts tensors that are in memory."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def watch(self, tensor: Tensor) -> Tensor:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        weakref.finalize(tensor, self._forget)
        return tensor

    def _forget(self) -> None:
        with self._lock:
            self.now -= 1


class Stub:
    """Mean and two corners of a picture of any size, and what it was asked for."""

    name = "stub"
    kind = "stub"
    dimension = 9

    def __init__(self, **about: Any) -> None:
        self.about = about
        self.batches: list[int] = []
        self.prepared, self.made = Live(), Live()

    def prepare(self, image: Image.Image) -> Tensor:
        assert image.mode == "RGB"
        return self.prepared.watch(torch.from_numpy(np.array(image)).permute(2, 0, 1).float())

    def features(self, batch: Tensor) -> Tensor:
        self.batches.append(len(batch))
        parts = [batch.flatten(2).mean(2), batch[:, :, 0, 0], batch[:, :, -1, -1]]
        return self.made.watch(torch.cat(parts, 1) / 255)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "weights": "0a", **self.about}


@contextmanager
def features_of(
    folder: Path, extractor: Any, settings: EvaluateSettings
) -> Iterator[tuple[Features, Workplace]]:
    with Workplace(settings) as place:
        yield place.features(place.folder(folder), extractor), place


def by_digest(folder: Path, extractor: Any, settings: EvaluateSettings) -> dict[str, np.ndarray]:
    with features_of(folder, extractor, settings) as (features, _):
        return dict(zip(features.folder.digests, np.array(features.array), strict=True))


def save(folder: Path, names: Sequence[str], seed: int = 0) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed + number, 16, 12).save(folder / name)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return save(tmp_path / "pictures", ["a.png", "b.png", "x/c.png", "x/d.jpg", "e.webp"])


def test_array_is_that_of_single_pictures(pictures: Path, settings: EvaluateSettings) -> None:
    stub = Stub()
    with features_of(pictures, stub, settings) as (features, _):
        assert isinstance(features.array, np.memmap)
        assert features.array.dtype == np.float32
        assert list(features.folder.digests) == sorted(features.folder.digests)
        for name, row in zip(features.folder.names, features.array, strict=True):
            with Image.open(pictures / name) as image:
                expected = stub.features(stub.prepare(image.convert("RGB"))[None])[0]
            assert np.array_equal(row, expected.numpy())
        assert len(features) == 5 and features.sizes == {(16, 12): 5}


def test_names_and_order_do_not_matter(
    pictures: Path, tmp_path: Path, settings: EvaluateSettings
) -> None:
    other = tmp_path / "other"
    for number, path in enumerate(sorted(pictures.rglob("*.*"), reverse=True)):
        (other / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        (other / f"{number % 2}" / f"{number}{path.suffix}").write_bytes(path.read_bytes())
    with (
        features_of(pictures, Stub(), settings) as (one, _),
        features_of(other, Stub(), replace(settings, cache=None)) as (two, _),
    ):
        assert one.folder.fingerprint == two.folder.fingerprint
        assert one.folder.names != two.folder.names
        assert np.array_equal(one.array, two.array)


def test_batches_do_not_matter(emblems: Path, settings: EvaluateSettings) -> None:
    single, many = (
        emblem(emblems, settings=replace(settings, cache=None, batch_size=size)) for size in (1, 32)
    )
    for one, two in zip(single.scores, many.scores, strict=True):
        assert one.metric == two.metric
        assert one.value == pytest.approx(two.value, abs=1e-6, nan_ok=True)


def test_batches_of_network_do_not_matter(emblems: Path, settings: EvaluateSettings) -> None:
    arrays = []
    for size in (1, 7, 32):
        with Workplace(replace(settings, cache=None, batch_size=size)) as place:
            network = place.extractor("emblem-classifier")
            arrays.append(np.array(place.features(place.folder(emblems), network).array))
    scale = np.abs(arrays[0]).max()
    for array in arrays[1:]:
        np.testing.assert_allclose(array / scale, arrays[0] / scale, atol=1e-6)


def test_made_once(pictures: Path, settings: EvaluateSettings) -> None:
    stub = Stub()
    first = by_digest(pictures, stub, settings)
    assert sum(stub.batches) == 5
    again = by_digest(pictures, stub, settings)
    assert sum(stub.batches) == 5
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[key], again[key]) for key in first)

    save(pictures, ["b.png"], seed=100)
    (pictures / "a.png").rename(pictures / "z.png")
    changed = by_digest(pictures, stub, settings)
    assert sum(stub.batches) == 6
    assert len(first.keys() & changed.keys()) == 4

    by_digest(pictures, Stub(), replace(settings, cache=None))
    by_digest(pictures, other := Stub(crop=12), settings)
    assert sum(other.batches) == 5
    by_digest(pictures, renamed := Stub(name="other"), settings)
    assert renamed.batches == []  # it is the weights that count


def test_interrupted_run_goes_on(pictures: Path, settings: EvaluateSettings) -> None:
    class Breaks(Stub):
        def features(self, batch: Tensor) -> Tensor:
            if len(self.batches) == 3:
                raise KeyboardInterrupt
            return super().features(batch)

    single = replace(settings, batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        by_digest(pictures, Breaks(), single)
    stub = Stub()
    by_digest(pictures, stub, single)
    assert stub.batches == [1, 1]


def test_duplicates(pictures: Path, settings: EvaluateSettings) -> None:
    (pictures / "copy.png").write_bytes((pictures / "a.png").read_bytes())
    stub = Stub()
    with features_of(pictures, stub, settings) as (features, _):
        rows = dict(zip(features.folder.names, features.array, strict=True))
        assert len(rows) == len(features) == 6
        assert np.array_equal(rows["copy.png"], rows["a.png"])
        assert not np.array_equal(rows["copy.png"], rows["b.png"])
    assert sum(stub.batches) == 5


def test_mixed_sizes(pictures: Path, settings: EvaluateSettings) -> None:
    picture(50, 8, 20).save(pictures / "tall.png")
    picture(51, 1, 1).save(pictures / "dot.png")
    stub = Stub()
    with features_of(pictures, stub, settings) as (features, _):
        assert features.sizes == {(16, 12): 5, (8, 20): 1, (1, 1): 1}
        rows = dict(zip(features.folder.names, features.array, strict=True))
    assert sorted(stub.batches) == [1, 1, 5]
    corner = np.asarray(Image.open(pictures / "tall.png"))[-1, -1] / np.float32(255)
    np.testing.assert_allclose(rows["tall.png"][6:], corner, rtol=1e-6)


def spoil(folder: Path, count: int) -> list[str]:
    names = [f"bad{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).write_text(f"no picture {number}")
    return names


def test_bad_pictures_stop(pictures: Path, settings: EvaluateSettings) -> None:
    spoil(pictures, 5)
    (pictures / "gone.png").symlink_to(pictures / "nothing")
    expected = r"1 of 11 pictures in .* gone\.png \(No such file"
    with Workplace(settings) as place, pytest.raises(ValueError, match=expected):
        place.folder(pictures)
    (pictures / "gone.png").unlink()
    with pytest.raises(ValueError) as caught:
        by_digest(pictures, Stub(), settings)
    message = str(caught.value)
    assert "5 of 10 pictures in " in message and " and 2 more; repair or remove" in message
    assert message.count("(not a picture)") == 3 and message.endswith("with --skip-bad")
    assert "\n" not in message


def test_bad_pictures_are_left_out_on_request(
    pictures: Path, settings: EvaluateSettings, caplog: pytest.LogCaptureFixture
) -> None:
    names = spoil(pictures, 2)
    (pictures / "again.png").write_bytes((pictures / names[0]).read_bytes())
    (pictures / "gone.png").symlink_to(pictures / "nothing")
    skipping = replace(settings, skip_bad=True)
    with (
        caplog.at_level(logging.WARNING, "diffusteer"),
        features_of(pictures, Stub(), skipping) as (features, place),
    ):
        assert set(features.folder.names) == {"a.png", "b.png", "x/c.png", "x/d.jpg", "e.webp"}
        assert features.array.shape == (5, 9)
        result = place.finish(lambda: Result("p", {}, (), None))
    lost = {str(pictures / name): "not a picture" for name in (*names, "again.png")}
    lost[str(pictures / "gone.png")] = "No such file or directory"
    assert result.left_out == lost
    first, second = (record.getMessage() for record in caplog.records)
    assert "1 of 9 pictures" in first and "gone.png (No such file or directory); left out" in first
    assert "3 of 8 pictures" in second


def test_no_picture_is_left(tmp_path: Path, settings: EvaluateSettings) -> None:
    tmp_path.joinpath("pictures").mkdir()
    spoil(tmp_path / "pictures", 2)
    skipping = replace(settings, skip_bad=True)
    with pytest.raises(ValueError, match=r"2 of 2 pictures in .*; give a folder of pictures"):
        by_digest(tmp_path / "pictures", Stub(), skipping)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_not_finite(
    pictures: Path, settings: EvaluateSettings, value: float
) -> None:
    class Spoils(Stub):
        def features(self, batch: Tensor) -> Tensor:
            found = super().features(batch)
            found[batch[:, 0, 0, 0] == black[0], 4] = value
            return found

    black = np.asarray(Image.open(pictures / "b.png"))[0, 0]
    with pytest.raises(ValueError, match=r"stub gives features that are not finite for '.*b\.png'"):
        by_digest(pictures, Spoils(), settings)


def test_warnings_of_pillow_are_kept_away(pictures: Path, settings: EvaluateSettings) -> None:
    for number in range(20):
        image = Image.new("P", (16, 12), number)
        image.putpalette(list(range(60)))
        image.save(pictures / f"{number}.png", transparency=b"\xff\x00")
    before = list(warnings.filters)
    assert len(by_digest(pictures, Stub(), settings)) == 25
    assert list(warnings.filters) == before


def test_memory_does_not_grow(tmp_path: Path, settings: EvaluateSettings) -> None:
    for number in range(3000):
        pixel = bytes([number % 256, number // 256, 0])
        (tmp_path / f"{number}.bmp").write_bytes(BMP + pixel + b"\0")
    stub = Stub()
    with features_of(tmp_path, stub, replace(settings, cache=None)) as (features, _):
        assert len(features) == sum(stub.batches) == 3000
        assert features.array.shape == (3000, 9)
    assert stub.prepared.most <= 2 * settings.batch_size
    assert stub.made.most <= 2


def bmp_header() -> bytes:
    sizes = b"".join(number.to_bytes(4, "little") for number in (58, 0, 54, 40, 1, 1))
    return b"BM" + sizes + b"\1\0\x18\0" + bytes(24)


BMP = bmp_header()
"""Of a picture of one pixel: blue, green, red and a byte of padding follow."""


def test_nothing_is_left_behind(
    pictures: Path, settings: EvaluateSettings, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(scratch / "home"))
    with features_of(pictures, Stub(), replace(settings, cache=None)) as (features, _):
        assert len(features.array) == 5
        assert len(list(scratch.iterdir())) == 1
    assert list(scratch.iterdir()) == []
    assert settings.cache is not None and not settings.cache.exists()


def test_nothing_is_left_behind_by_errors(
    pictures: Path, settings: EvaluateSettings, scratch: Path
) -> None:
    class Fails(Stub):
        def features(self, batch: Tensor) -> Tensor:
            raise RuntimeError("no memory")

    threads = threading.active_count()
    with pytest.raises(RuntimeError, match="no memory"):
        by_digest(pictures, Fails(), replace(settings, cache=None))
    with pytest.raises(ValueError, match="there is nothing at"), Workplace(settings) as place:
        place.folder(pictures / "absent")
    assert list(scratch.iterdir()) == []
    assert threading.active_count() <= threads
