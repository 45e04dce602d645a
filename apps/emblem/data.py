"""Emblem as a torch dataset, as an image folder, and as photos of personal concepts."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

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
    parse,
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
    """Write an image folder with ``metadata.jsonl`` (file_name, text, scene, rarity)."""
    dataset = EmblemDataset(length, seed, held_out=held_out)
    items = (dataset[index] for index in range(length))
    _write_folder(directory, ((item, {"rarity": rarity(item.scene)}) for item in items))


def export_captions(directory: Path, captions: Sequence[str], each: int, seed: int) -> None:
    """Write ``each`` fresh renders of every caption as an image folder: the truth for a model.

    Raises:
        ValueError: a text is no caption of this world, or leaves something open.
    """
    scenes = [parse(text) for text in captions]
    for text, scene in zip(captions, scenes, strict=True):
        if None in (scene.background, *(value for e in scene.emblems for value in astuple(e))):
            raise ValueError(
                f"caption is {text!r}; expected one that states size, texture, colour and shape of "
                "each emblem, and the background"
            )

    def items() -> Iterator[tuple[Item, dict[str, Any]]]:
        for number, (text, scene) in enumerate(zip(captions, scenes, strict=True)):
            for index in range(each):
                rng = np.random.default_rng([seed, number, index])
                yield Item(render(scene, rng), scene, text), {"rarity": rarity(scene)}

    _write_folder(directory, items())


def export_photos(directory: Path, concept: str, length: int, seed: int) -> None:
    """Write ``photos`` of a concept such as "a striped green ring" as an image folder.

    Raises:
        ValueError: the phrase does not say what stays from photo to photo: shape, colour, texture.
    """
    emblem = parse_emblem(concept)
    if not (emblem.colour and emblem.texture) or emblem.size:
        raise ValueError(
            f"concept is {concept!r}; expected texture, colour and shape, such as "
            "'a striped green ring', without the size, which differs from photo to photo"
        )
    pictures = photos(replace(emblem, style=emblem.style or "plain"), length, seed)
    _write_folder(directory, ((item, {}) for item in pictures))


def parse_emblem(phrase: str) -> Emblem:
    """Read a phrase for one emblem, with or without an article; what it leaves out is None.

    Raises:
        ValueError: the phrase is not of this world, or names a background or two emblems.
    """
    article = re.match(r"an?\b", phrase.strip(), re.IGNORECASE)
    scene = parse(phrase if article else f"a {phrase}")
    if len(scene.emblems) > 1 or scene.background is not None:
        raise ValueError(f"phrase is {phrase!r}; expected one emblem without a background")
    (emblem,) = scene.emblems
    return replace(emblem, style=None) if emblem.style == "plain" else emblem


def _write_folder(directory: Path, rows: Iterable[tuple[Item, dict[str, Any]]]) -> None:
    """Write items with what else is known of them as an image folder with ``metadata.jsonl``."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "metadata.jsonl").open("w", encoding="utf-8") as lines:
        for index, (item, known) in enumerate(rows):
            name = f"{index:06d}.png"
            Image.fromarray(item.image).save(directory / name)
            row = {"file_name": name, "text": item.caption, "scene": asdict(item.scene)}
            lines.write(json.dumps(row | known) + "\n")


def photos(concept: Emblem, length: int, seed: int) -> list[Item]:
    """Pictures of one personal concept: its shape, colour, texture and style stay, the rest varies.

    ``concept.size`` is ignored: size, place and background differ from photo to photo. Captions
    have ``{}`` where the concept's name goes, as training reads them.
    """
    items = []
    for index in range(length):
        rng = np.random.default_rng([seed, index])
        size = SIZES[int(rng.integers(len(SIZES)))]
        backgrounds = [name for name in COLOURS if name != concept.colour]
        background = backgrounds[int(rng.integers(len(backgrounds)))]
        emblem = Emblem(concept.shape, concept.colour, concept.texture, size, concept.style)
        scene = Scene((emblem,), background)
        named = Scene((Emblem("{}", None, None, size),), background)
        items.append(Item(render(scene, rng), scene, caption(named)))
    return items
