"""Masks of photos by CLIPSeg: where something that a word names is seen.

T. Lüddecke and A. Ecker, "Image Segmentation Using Text and Image Prompts", 2022 (arXiv
2112.10003). Perfusion (arXiv 2305.01644) weights its loss by such masks and published no code; that
they are probabilities, averaged over prompts, is what a public re-implementation does. The prompts
are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, CLIPSegForImageSegmentation

from apps.evaluate.networks.pretrained import Preparation, exact, load_network, load_part
from apps.pictures import write_png
from personalize.core.decode import decode, read_file
from personalize.core.images import MASK, Item, find_items

PROMPTS = (
    "a photo of a {}",
    "a photo of the {}",
    "a good photo of a {}",
    "a picture of a {}",
    "a {}",
)


class Segmenter:
    """Says where in a picture a word is.

    Args:
        source: CLIPSeg for image segmentation, a folder or an id on the hub.
        word: what to look for.
        device: to compute on.

    Raises:
        ValueError: there is no such model, or it is another one.
    """

    def __init__(self, source: str, word: str, device: torch.device) -> None:
        loaders = {"clipseg": CLIPSegForImageSegmentation.from_pretrained}
        self._network = load_network(source, loaders).to(device)
        self._prepare = Preparation.from_pretrained(source)
        tokenizer = load_part(AutoTokenizer.from_pretrained, source)
        texts = tokenizer(
            [prompt.format(word) for prompt in PROMPTS],
            padding=True,
            truncation=True,
            return_tensors="pt",
        ).to(device)
        with exact():
            self._texts: Tensor = self._network.get_conditional_embeddings(len(PROMPTS), **texts)

    def __call__(self, image: Image.Image) -> Tensor:
        """Probability ``(h, w)`` in [0, 1] that a place of a picture shows the word."""
        pixels = self._prepare(image).to(self._texts)
        with exact():
            logits: Tensor = self._network(
                pixel_values=pixels.expand(len(PROMPTS), -1, -1, -1),
                conditional_embeddings=self._texts,
            ).logits
        return logits.sigmoid().mean(0).cpu()


def as_mask(probability: Tensor, size: tuple[int, int]) -> Image.Image:
    """A mask ``size = (width, height)`` of probabilities ``(h, w)``, white where they are highest.

    Only what the values are to each other counts in training.
    """
    levels = (255 * probability / probability.max()).round().to(torch.uint8)
    return Image.fromarray(levels.numpy()).resize(size, Image.Resampling.BILINEAR)


def photos_to_mask(folder: Path, overwrite: bool) -> tuple[Item, ...]:
    """Photos of a folder that are to get masks: those without, or all.

    Raises:
        ValueError: see ``find_items``; or two photos would share one mask.
    """
    items = find_items(folder, captions=False)
    masks: dict[Path, Item] = {}
    for item in items:
        other = masks.setdefault(item.path.with_suffix(MASK), item)
        if other is not item:
            raise ValueError(
                f"{other.name} and {item.name} would share the mask {item.path.stem}{MASK}; "
                "rename one of them"
            )
    return tuple(item for item in items if overwrite or item.mask is None)


def write_masks(
    items: Sequence[Item], segment: Callable[[Image.Image], Tensor]
) -> dict[Path, float]:
    """Write ``<photo>.mask.png`` beside photos; returns the highest probability in each."""
    found = {}
    for item in items:
        image = decode(item.path, read_file(item.path))
        probability = segment(image)
        path = item.path.with_suffix(MASK)
        write_png(path, as_mask(probability, image.size))
        found[path] = float(probability.max())
    return found
