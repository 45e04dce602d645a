"""The classifier of the Emblem world as a feature extractor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from apps.emblem.score import Scorer
from apps.evaluate.networks.pretrained import Preparation, exact, weights_hash
from apps.shipped import shipped


class ClassifierExtractor:
    """Features before the last layer of the classifier that comes with the package; 64 px."""

    name = "emblem-classifier"
    kind = "classifier"

    def __init__(self, device: torch.device) -> None:
        folder = shipped(self.name)
        self.scorer = Scorer.from_pretrained(folder, str(device))
        self._weights = weights_hash(self.scorer.classifier)
        self.dimension: int = self.scorer.classifier.config.hidden_sizes[-1]
        self.prepare = Preparation.from_pretrained(str(folder))

    @exact()
    def features(self, batch: Tensor) -> Tensor:
        """Features (B, D) of prepared pictures (B, 3, 64, 64)."""
        return self.scorer.features(batch)

    def describe(self) -> dict[str, Any]:
        """What decides the features."""
        return {
            "name": self.name,
            "kind": self.kind,
            "dimension": self.dimension,
            "network": "ResNetForImageClassification",
            "weights": self._weights,
            **self.prepare.describe(),
            "dtype": "float32",
        }
