"""The pictures of a folder, by what is in their files rather than what these are called."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folder:
    """Readable pictures of a folder, in the order of their hashes.

    Attributes:
        path: of the folder.
        names: relative to it.
        digests: hashes of the files; the same one twice where a picture is there twice.
    """

    path: Path
    names: tuple[str, ...]
    digests: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, digests: dict[str, str]) -> Folder:
        """From the hash of each name."""
        pairs = sorted((key, name) for name, key in digests.items())
        return cls(path, tuple(name for _, name in pairs), tuple(key for key, _ in pairs))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """Hash of all the pictures, whatever they are called."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()

    @property
    def names_of(self) -> dict[str, list[str]]:
        """The names that each hash has."""
        found: dict[str, list[str]] = {}
        for name, key in zip(self.names, self.digests, strict=True):
            found.setdefault(key, []).append(name)
        return found

    def without(self, names: Collection[str]) -> Folder:
        """The folder without some of its pictures."""
        pairs = zip(self.names, self.digests, strict=True)
        return Folder.of(self.path, {name: key for name, key in pairs if name not in names})
