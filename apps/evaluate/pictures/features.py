"""Features of pictures: made batch by batch, kept, and read back as one array."""

from __future__ import annotations

import tempfile
from collections import Counter
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from apps.evaluate.networks.extractors import Extractor
from apps.evaluate.pictures.folder import Folder
from apps.evaluate.pictures.images import BadPicture, read_picture
from apps.evaluate.pictures.store import FeatureStore, Size, Vector


@dataclass(frozen=True)
class Features:
    """Kept features of the pictures of a folder."""

    folder: Folder
    extractor: Extractor
    store: FeatureStore
    scratch: Path

    def __len__(self) -> int:
        return len(self.folder)

    @cached_property
    def array(self) -> NDArray[np.float32]:
        """Features (N, D) in the order of the folder, mapped from a file."""
        with tempfile.NamedTemporaryFile(dir=self.scratch, delete=False) as file:
            return self.store.write(self.folder.digests, self.extractor.dimension, Path(file.name))

    @cached_property
    def sizes(self) -> Counter[Size]:
        """How many pictures have each (width, height)."""
        return Counter(self.store.size(key) for key in self.folder.digests)


Made = tuple[str, Size, Vector]
"""Hash, size and feature (D,) of a picture, as the store keeps them."""


def embed(
    paths: dict[str, Path], extractor: Extractor, threads: Executor
) -> tuple[list[Made], dict[str, str]]:
    """Features of the pictures of these hashes, and why the others cannot be read.

    Pictures are prepared side by side, and go through the network with those of the same shape.

    Raises:
        ValueError: the network gives numbers that are not finite.
    """

    def prepare(path: Path) -> tuple[Size, torch.Tensor] | str:
        try:
            image = read_picture(path)
        except BadPicture as reason:
            return str(reason)
        return image.size, extractor.prepare(image)

    bad: dict[str, str] = {}
    alike: dict[torch.Size, list[tuple[str, Size, torch.Tensor]]] = {}
    for key, found in zip(paths, threads.map(prepare, paths.values()), strict=True):
        if isinstance(found, str):
            bad[key] = found
        else:
            alike.setdefault(found[1].shape, []).append((key, *found))
    made = []
    for group in alike.values():
        features = extractor.features(torch.stack([pixels for _, _, pixels in group])).numpy()
        for (key, size, _), feature in zip(group, features, strict=True):
            if not np.isfinite(feature).all():
                raise ValueError(
                    f"{extractor.name} gives features that are not finite for {str(paths[key])!r}; "
                    "use another device or extractor"
                )
            made.append((key, size, feature))
    return made, bad
