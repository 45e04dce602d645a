"""Preference models: scores of pictures for their prompts, as people would rate them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from torch.nn import functional as F

from apps.evaluate.networks.clip import ClipExtractor
from apps.evaluate.networks.names import choose
from apps.evaluate.networks.pretrained import exact
from apps.evaluate.networks.reward_packages import Hpsv2, ImageReward, check_pairs
from apps.pipelines import model_name, pick_device


class Reward(Protocol):
    """Scores pictures for their prompts; scores of different rewards cannot be compared."""

    name: str

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """One score for each pair of prompt and picture; higher is better."""
        ...

    def describe(self) -> dict[str, Any]:
        """What decides the scores."""
        ...


class PickScore:
    """``exp(logit_scale) cos(picture, prompt)`` of a CLIP that learned people's choices; about 20.

    "Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation", Kirstain et al.
    2023, arXiv 2305.01569.

    Args:
        folder: with model, tokenizer and image processor; empty for the authors' own on the hub.
        device: where it computes.

    Raises:
        ValueError: a part cannot be loaded.
    """

    def __init__(self, folder: str, device: torch.device) -> None:
        self.name = f"pickscore:{model_name(folder)}" if folder else "pickscore"
        model = folder or "yuvalkirstain/PickScore_v1"
        processor = folder or "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
        self._clip = ClipExtractor(self.name, model, device, processor)
        self._scale = self._clip.embeddings.model.logit_scale.exp().cpu()

    @exact()
    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        """Scores of one batch."""
        check_pairs(prompts, images)
        pictures = torch.stack([self._clip.prepare(image) for image in images])
        cosines = F.cosine_similarity(self._clip.features(pictures), self._clip.text(prompts))
        scores: list[float] = (self._scale * cosines).tolist()
        return scores

    def describe(self) -> dict[str, Any]:
        """What decides the scores."""
        return self._clip.describe()


REWARDS: dict[str, Callable[[str, torch.device], Reward]] = {
    "pickscore": PickScore,
    "pickscore:FOLDER": PickScore,
    "imagereward": lambda _, device: ImageReward(device),
    "hpsv2": lambda _, device: Hpsv2(),
}
"""Rewards by the form of name they answer to; they are given what follows the colon."""


def load_reward(name: str, device: str = "cpu") -> Reward:
    """The reward of a name, see ``REWARDS``, on a device, see ``pick_device``.

    Raises:
        ValueError: no reward has this name, or it cannot be loaded.
    """
    load, source = choose(name, REWARDS, "reward")
    return load(source, pick_device(device))
