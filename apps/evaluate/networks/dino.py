"""DINO and DINOv2: what a vision transformer learns from pictures without words.

"Emerging Properties in Self-Supervised Vision Transformers", Caron et al. 2021, arXiv 2104.14294;
"DINOv2: Learning Robust Visual Features without Supervision", Oquab et al. 2023, arXiv 2304.07193.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import BitImageProcessorPil, Dinov2Model, Dinov2WithRegistersModel, ViTModel

from apps.evaluate.networks.pretrained import Preparation, exact, load_network, weights_hash
from apps.pipelines import model_name

_LOADERS = {
    "vit": partial(ViTModel.from_pretrained, add_pooling_layer=False),
    "dinov2": Dinov2Model.from_pretrained,
    "dinov2_with_registers": Dinov2WithRegistersModel.from_pretrained,
}


class DinoExtractor:
    """The class token after the last layer norm.

    The image processors saved with the first DINO squeeze pictures into a square; here its own
    evaluation holds, as in DreamBooth: shorter side to 8/7 of the crop, bicubic, centre crop.

    Raises:
        ValueError: a part cannot be loaded, or it is no vision transformer of these families.
    """

    kind = "dino"

    def __init__(self, source: str, device: torch.device) -> None:
        self.name = f"dino:{model_name(source)}"
        network = load_network(source, _LOADERS)
        self._weights = weights_hash(network)
        self._network = network.to(device)
        self._device = device
        config = network.config
        self.dimension: int = config.hidden_size
        self.prepare = Preparation.from_pretrained(source)
        if config.model_type == "vit":
            self.prepare = _evaluation_of_dino(self.prepare, config.image_size)

    @exact()
    def features(self, batch: Tensor) -> Tensor:
        """Class tokens (B, D) of prepared pictures (B, 3, H, W)."""
        tokens: Tensor = self._network(batch.to(self._device)).last_hidden_state
        return tokens[:, 0].cpu()

    def describe(self) -> dict[str, Any]:
        """What decides the features."""
        return {
            "name": self.name,
            "kind": self.kind,
            "dimension": self.dimension,
            "network": type(self._network).__name__,
            "weights": self._weights,
            **self.prepare.describe(),
            "dtype": "float32",
        }


def _evaluation_of_dino(saved: Preparation, side: int) -> Preparation:
    return Preparation(
        BitImageProcessorPil(
            size={"shortest_edge": round(side * 8 / 7)},
            crop_size={"height": side, "width": side},
            image_mean=saved.processor.image_mean,
            image_std=saved.processor.image_std,
        )
    )
