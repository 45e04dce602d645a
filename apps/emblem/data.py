"""Emblem as a torch dataset, as an image folder, and as photos of personal concepts."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from apps.emblem.render import render
from apps.emblem.world import (
    COLOURS,
    SIZES,
    Emblem,
    Scene,
    caption,
    drop_parts,
    rarity,
    sample_scene,
)


@dataclass(frozen=True)
class Item:
    """One picture with its truth: ``image`` (64, 64, 3) uint8, the full scene and a caption."""

    image: NDArray[np.uint8]
    scene: Scene
    caption: str


class EmblemDataset(Dataset[Item]):
    """``length`` scenes of the world; item ``i`` depends on ``(seed, i)`` alone.

    Args:
        length: number of items.
        seed: seed of the whole set.
        held_out: False leaves the held-out combinations out (what training sees), True keeps only
            them, None draws from the whole world.
        count: 1 or 2 emblems in every scene; None mixes them as the world does.
    """

    def __init__(
        self, length: int, seed: int, *, held_out: bool | None = False, count: int | None = None
    ) -> None:
        self.length, self.seed, self.held_out, self.count = length, seed, held_out, count

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < self.length:
            raise IndexError(f"index is {index}; expected 0 <= index < {self.length}")
        rng = np.random.default_rng([self.seed, index])
        scene = sample_scene(rng, held_out=self.held_out, count=self.count)
        image = render(scene, rng)
        return Item(image, scene, caption(drop_parts(scene, rng)))


def export(directory: Path, length: int, seed: int, *, held_out: bool | None = None) -> None:
    """Write an image folder with ``metadata.jsonl`` (file_name, text, attributes, rarity)."""
    dataset = EmblemDataset(length, seed, held_out=held_out)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "metadata.jsonl").open("w", encoding="utf-8") as lines:
        for index in range(length):
            item = dataset[index]
            name = f"{index:06d}.png"
            Image.fromarray(item.image).save(directory / name)
            row = {
                "file_name": name,
                "text": item.caption,
                "scene": asdict(item.scene),
                "rarity": rarity(item.scene),
            }
            lines.write(json.dumps(row) + "\n")


def photos(concept: Emblem, length: int, seed: int) -> list[Item]:
    """Pictures of one personal concept: its shape, colour, texture and style stay, the rest varies.

    ``concept.size`` is ignored: size, place and background differ from photo to photo.
    """
    items = []
    for index in range(length):
        rng = np.random.default_rng([seed, index])
        size = SIZES[int(rng.integers(len(SIZES)))]
        backgrounds = [name for name in COLOURS if name != concept.colour]
        background = backgrounds[int(rng.integers(len(backgrounds)))]
        emblem = Emblem(concept.shape, concept.colour, concept.texture, size, concept.style)
        scene = Scene((emblem,), background)
        items.append(Item(render(scene, rng), scene, caption(scene)))
    return items
