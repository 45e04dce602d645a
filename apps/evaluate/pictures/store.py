"""Features on disk, by the hash of the picture's file; one SQLite file for each extractor."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Size = tuple[int, int]


class FeatureStore:
    """Features and sizes of pictures, kept from run to run.

    Args:
        folder: where the files are; created if need be.
        maker: all that decides what the features are; another one means another file.

    Raises:
        ValueError: the folder or the file cannot be used, now or later.
    """

    def __init__(self, folder: Path, maker: Mapping[str, Any]) -> None:
        about = json.dumps(maker, sort_keys=True)
        name = hashlib.sha256(about.encode()).hexdigest()[:16]
        self.path = folder / f"{name}.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=60)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error
        with self._transaction() as database:
            database.execute("CREATE TABLE IF NOT EXISTS maker (about TEXT PRIMARY KEY)")
            database.execute("INSERT OR IGNORE INTO maker VALUES (?)", (about,))
            database.execute(
                "CREATE TABLE IF NOT EXISTS pictures "
                "(digest TEXT PRIMARY KEY, width INT, height INT, feature BLOB) WITHOUT ROWID"
            )

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __contains__(self, digest: str) -> bool:
        query = "SELECT 1 FROM pictures WHERE digest = ?"
        with self._transaction() as database:
            return database.execute(query, (digest,)).fetchone() is not None

    def add(self, rows: Iterable[tuple[str, Size, Vector]]) -> None:
        """Keep the (width, height) and the feature (D,) of each digest; all of them or none."""
        with self._transaction() as database:
            database.executemany(
                "INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?)",
                [(digest, *size, feature.tobytes()) for digest, size, feature in rows],
            )

    def size(self, digest: str) -> Size:
        """Width and height of a kept picture in pixels."""
        query = "SELECT width, height FROM pictures WHERE digest = ?"
        with self._transaction() as database:
            width, height = database.execute(query, (digest,)).fetchone()
        return width, height

    def write(self, digests: Sequence[str], dimension: int, path: Path) -> NDArray[np.float32]:
        """Features (N, D) of kept pictures in this order, as an array mapped from a file."""
        shape = (len(digests), dimension)
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        query = "SELECT feature FROM pictures WHERE digest = ?"
        with self._transaction() as database:
            for row, digest in enumerate(digests):
                (feature,) = database.execute(query, (digest,)).fetchone()
                array[row] = np.frombuffer(feature, dtype=np.float32)
        return array

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._database:
                yield self._database
        except sqlite3.Error as error:
            self.close()
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> ValueError:
        return ValueError(
            f"cannot keep features in {str(self.path)!r} ({error}); choose another cache folder, "
            "delete the file, or keep none"
        )
