"""CLIP: embeddings of pictures and texts in one space.

"Learning Transferable Visual Models From Natural Language Supervision", Radford et al. 2021,
arXiv 2103.00020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPModel

from apps.evaluate.networks.pretrained import (
    Preparation,
    exact,
    load_network,
    load_part,
    weights_hash,
)
from apps.pipelines import model_name
from apps.shipped import shipped


class Embeddings(nn.Module):
    """A CLIPModel whose two methods for features return the projected embeddings (B, D).

    transformers 5 returns an output object there, on which torchmetrics' CLIPScore fails; it takes
    this one: ``CLIPScore(model_name_or_path=lambda: (Embeddings(model), processor))``.
    """

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.model = model

    @property
    def config(self) -> Any:
        """Configuration of the model."""
        return self.model.config

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Embeddings (B, D) of prepared pictures (B, 3, H, W)."""
        embeddings: Tensor = self.model.get_image_features(pixel_values).pooler_output
        return embeddings

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeddings (B, D) of token ids (B, T)."""
        embeddings: Tensor = self.model.get_text_features(input_ids, attention_mask).pooler_output
        return embeddings


class ClipExtractor:
    """Embeddings of a CLIPModel, not normalised.

    Args:
        name: by which results know it.
        model: folder or id on the hub.
        device: where it computes.
        processor: folder or id that has the tokenizer and the image processor; None is ``model``.

    Raises:
        ValueError: a part cannot be loaded.
    """

    kind = "clip"

    def __init__(
        self, name: str, model: str, device: torch.device, processor: str | None = None
    ) -> None:
        self.name = name
        clip = load_network(model, {"clip": CLIPModel.from_pretrained})
        self._weights = weights_hash(clip)
        self.embeddings = Embeddings(clip).to(device)
        self.dimension: int = clip.config.projection_dim
        self.prepare = Preparation.from_pretrained(processor or model)
        self._tokenizer = load_part(AutoTokenizer.from_pretrained, processor or model)
        self._limit: int = clip.config.text_config.max_position_embeddings
        self._device = device

    @exact()
    def features(self, batch: Tensor) -> Tensor:
        """Embeddings (B, D) of prepared pictures (B, 3, H, W)."""
        return self.embeddings.get_image_features(batch.to(self._device)).cpu()

    @exact()
    def text(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (B, D) of prompts; what is beyond the limit of tokens is cut."""
        tokens = self._tokenizer(
            list(prompts),
            padding=True,
            truncation=True,
            max_length=self._limit,
            return_tensors="pt",
        ).to(self._device)
        return self.embeddings.get_text_features(tokens.input_ids, tokens.attention_mask).cpu()

    def cut(self, prompt: str) -> int:
        """How many tokens of a prompt are beyond the limit; start and end count as tokens."""
        return max(0, len(self._tokenizer(prompt, verbose=False).input_ids) - self._limit)

    def describe(self) -> dict[str, Any]:
        """What decides the embeddings."""
        return {
            "name": self.name,
            "kind": self.kind,
            "dimension": self.dimension,
            "network": "CLIPModel",
            "weights": self._weights,
            **self.prepare.describe(),
            "dtype": "float32",
            "text": {"tokenizer": type(self._tokenizer).__name__, "tokens": self._limit},
        }


def load_clip(source: str, device: torch.device) -> ClipExtractor:
    """CLIP from a folder or the hub."""
    return ClipExtractor(f"clip:{model_name(source)}", source, device)


def load_emblem_clip(_: str, device: torch.device) -> ClipExtractor:
    """The CLIP of the Emblem world that comes with the package: 64 px, 32 tokens."""
    return ClipExtractor("emblem-clip", str(shipped("emblem-clip")), device)
