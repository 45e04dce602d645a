"""Features are kept exactly, for other processes too, and never for another maker."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.evaluate.pictures.store import FeatureStore

MAKER = {"name": "stub", "weights": "0a1b", "size": {"height": 64}}
ODD = np.array([1 / 3, -0.0, 1e-45, 3.4028235e38], dtype=np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with closing(FeatureStore(tmp_path / "new" / "cache", MAKER)) as opened:
        yield opened


def feature(number: int) -> np.ndarray:
    return np.full(4, number, dtype=np.float32)


def test_exact_and_in_order(store: FeatureStore, tmp_path: Path) -> None:
    store.add([("a", (64, 48), ODD), ("b", (7, 9), feature(2)), ("c", (1, 1), feature(3))])
    array = store.write(["c", "a", "c", "b"], 4, tmp_path / "array.npy")
    assert array.dtype == np.float32
    assert array.tobytes() == b"".join(
        x.tobytes() for x in (feature(3), ODD, feature(3), feature(2))
    )
    assert np.array_equal(np.load(tmp_path / "array.npy"), array)
    assert store.size("a") == (64, 48) and store.size("b") == (7, 9)
    assert "a" in store and "d" not in store


def test_last_one_counts(store: FeatureStore, tmp_path: Path) -> None:
    store.add([("a", (1, 1), feature(1))])
    store.add([("a", (2, 3), feature(2))])
    assert store.write(["a"], 4, tmp_path / "array.npy").tolist() == [[2, 2, 2, 2]]
    assert store.size("a") == (2, 3)


def test_all_or_none(store: FeatureStore) -> None:
    def rows() -> Iterator[Any]:
        yield "a", (1, 1), feature(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.add(rows())
    assert "a" not in store


def test_other_process(store: FeatureStore, tmp_path: Path) -> None:
    store.add([("a", (64, 48), ODD)])
    code = f"""
from pathlib import Path
from apps.evaluate.pictures.store import FeatureStore
store = FeatureStore(Path({str(store.path.parent)!r}), {dict(reversed(MAKER.items()))!r})
print(store.write(["a"], 4, Path({str(tmp_path / "array.npy")!r})).tobytes().hex())
store.close()
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert found.stdout.strip() == ODD.tobytes().hex()


@pytest.mark.parametrize("change", [{"weights": "0a1c"}, {"size": {"height": 65}}, {"more": None}])
def test_other_maker(store: FeatureStore, change: dict[str, Any]) -> None:
    store.add([("a", (1, 1), feature(1))])
    with closing(FeatureStore(store.path.parent, MAKER | change)) as other:
        assert other.path != store.path
        assert "a" not in other
    with closing(FeatureStore(store.path.parent, MAKER)) as same:
        assert "a" in same


def test_two_writers(store: FeatureStore, tmp_path: Path) -> None:
    code = f"""
import sys
import numpy as np
from pathlib import Path
from apps.evaluate.pictures.store import FeatureStore
store = FeatureStore(Path({str(store.path.parent)!r}), {MAKER!r})
for number in range(30):
    own = np.full(4, number, dtype=np.float32)
    store.add([(f"{{sys.argv[1]}}{{number}}", (1, 1), own), (f"both{{number}}", (1, 1), own)])
store.close()
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, who]) for who in "xy"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    digests = [f"{who}{number}" for who in ("x", "y", "both") for number in range(30)]
    array = store.write(digests, 4, tmp_path / "array.npy")
    assert array[:, 0].tolist() == list(range(30)) * 3


def test_no_database(store: FeatureStore) -> None:
    store.close()
    store.path.write_bytes(b"not a database, and longer than the header of one\n" * 100)
    with pytest.raises(ValueError, match=r"cannot keep features in .*delete the file") as caught:
        FeatureStore(store.path.parent, MAKER)
    assert "\n" not in str(caught.value)


def test_database_that_breaks_later(store: FeatureStore, tmp_path: Path) -> None:
    with closing(sqlite3.connect(store.path)) as other, other:
        other.execute("DROP TABLE pictures")
    uses = [
        lambda: "a" in store,
        lambda: store.add([("a", (1, 1), feature(1))]),
        lambda: store.size("a"),
        lambda: store.write(["a"], 4, tmp_path / "array.npy"),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="cannot keep features in "):
            use()


def test_unusable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot keep features in '.*File exists"):
        FeatureStore(tmp_path / "file", MAKER)
    with pytest.raises(ValueError, match=r"cannot keep features in '.*Not a directory"):
        FeatureStore(tmp_path / "file" / "cache", MAKER)

    def refuse(*args: Any, **options: Any) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    reason = re.escape("(unable to open database file); choose another cache folder")
    with pytest.raises(ValueError, match=reason):
        FeatureStore(tmp_path / "locked", MAKER)
