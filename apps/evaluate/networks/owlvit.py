"""OWL-ViT: boxes for any words.

"Simple Open-Vocabulary Object Detection with Vision Transformers", Minderer et al. 2022,
arXiv 2205.06230.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import AutoTokenizer, OwlViTForObjectDetection, OwlViTProcessor

from apps.evaluate.networks.boxes import Box, check_labels
from apps.evaluate.networks.pretrained import (
    Preparation,
    exact,
    load_network,
    load_part,
    weights_hash,
)
from apps.pipelines import model_name

THRESHOLD = 0.1
"""Boxes up to this score are dropped; the default of transformers."""


class OwlViT:
    """Finds labels, read as they are; each place of the picture has its best label only.

    Args:
        source: folder or id on the hub.
        device: where it computes.

    Raises:
        ValueError: a part cannot be loaded.
    """

    def __init__(self, source: str, device: torch.device) -> None:
        self.name = f"owlvit:{model_name(source)}"
        network = load_network(source, {"owlvit": OwlViTForObjectDetection.from_pretrained})
        self._weights = weights_hash(network)
        self._network = network.to(device)
        self._prepare = Preparation.from_pretrained(source)
        self._tokenizer = load_part(AutoTokenizer.from_pretrained, source)
        self._processor = OwlViTProcessor(self._prepare.processor, self._tokenizer)
        self._limit: int = network.config.text_config.max_position_embeddings
        self._device = device

    @exact()
    def detect(self, image: Image.Image, labels: Sequence[str]) -> list[Box]:
        """Boxes of a picture of any size, clipped to it; what is empty then is dropped.

        Raises:
            ValueError: there is no label, or one of too many tokens.
        """
        tokens = self._tokenize(labels)
        pixels = self._prepare(image)[None].to(self._device)
        (found,) = self._processor.post_process_grounded_object_detection(
            self._network(pixel_values=pixels, **tokens),
            threshold=THRESHOLD,
            target_sizes=[(image.height, image.width)],
        )
        boxes = []
        rows = (found[key].tolist() for key in ("labels", "scores", "boxes"))
        for number, score, (left, top, right, bottom) in zip(*rows, strict=True):
            left, right = max(left, 0.0), min(right, float(image.width))
            top, bottom = max(top, 0.0), min(bottom, float(image.height))
            if left < right and top < bottom:
                boxes.append(Box(labels[number], score, (left, top, right, bottom)))
        return boxes

    def _tokenize(self, labels: Sequence[str]) -> Any:
        check_labels(labels)
        for label in labels:
            found = len(self._tokenizer(label, verbose=False).input_ids)
            if found > self._limit:
                raise ValueError(
                    f"label {label!r} has {found} tokens; this detector reads up to {self._limit}"
                )
        return self._tokenizer(
            list(labels), padding="max_length", max_length=self._limit, return_tensors="pt"
        ).to(self._device)

    def describe(self) -> dict[str, Any]:
        """What decides the boxes."""
        return {
            "name": self.name,
            "network": "OwlViTForObjectDetection",
            "weights": self._weights,
            **self._prepare.describe(),
            "dtype": "float32",
            "tokens": self._limit,
            "threshold": THRESHOLD,
        }
