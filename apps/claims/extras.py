"""What some claims measure on pictures beside the usual."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from PIL import Image
from torch import Tensor

from apps.claims.heads import OBJECTIVES
from apps.claims.rarity import SHARE, is_rare, is_rare_of_its_number
from apps.claims.requests import Request
from apps.claims.store import Measured
from apps.emblem.score import Reading
from apps.emblem.world import Scene, rarity
from apps.hunt.objectives import load_objective

Extra = Callable[[Measured, Reading, Sequence[Request]], Tensor]
"""One number for each picture (N,), nan where it does not apply."""

_objective = lru_cache(load_objective)


def extra_values(
    names: Sequence[str], measured: Measured, reading: Reading, requests: Sequence[Request]
) -> dict[str, Tensor]:
    """The extras of some names, see ``EXTRAS``."""
    return {name: EXTRAS[name](measured, reading, requests) for name in names}


def _scored(objective: str) -> Extra:
    def score(measured: Measured, reading: Reading, requests: Sequence[Request]) -> Tensor:
        pictures = measured.images.permute(0, 2, 3, 1).numpy()
        images = [Image.fromarray(picture) for picture in pictures]
        return _objective(objective)(images, [request.prompt for request in requests])

    return score


def _of_scenes(number: Callable[[Scene], float]) -> Extra:
    """Of each scene that is recognised; nan for pictures that show none."""

    def read(measured: Measured, reading: Reading, requests: Sequence[Request]) -> Tensor:
        told = reading.recognisable().tolist()
        scenes = zip(told, reading.scenes(), strict=True)
        return torch.tensor([number(scene) if ok else math.nan for ok, scene in scenes])

    return read


def _finite_rarity(scene: Scene) -> float:
    found = rarity(scene)
    return found if math.isfinite(found) else math.nan


MORE = {
    "quality": "cosine of picture and prompt by emblem-clip, as heads are searched for",
    "striped": "probability of the texture by emblem-classifier, as heads are searched for",
    "outlined": "probability of the style by emblem-classifier, as heads are searched for",
    "rarity": "-log p in nats of what recognisable pictures show, where the world shows it too",
    "rare": "share of recognisable pictures of a combination that the world shows least: those "
    f"that make up {SHARE:.0%} of its pictures",
    "rare_of_number": "the same among pictures with as many emblems",
    "double": "share of recognisable pictures with two emblems",
    "correlation": "rank correlation of the score and the true rarity of fresh renders",
    "correlation_single": "the same, of renders with one emblem",
    "unknown": "share of recognisable pictures of what the world never shows",
}

EXTRAS: dict[str, Extra] = {
    **{name: _scored(objective) for name, objective in OBJECTIVES.items()},
    "rarity": _of_scenes(_finite_rarity),
    "rare": _of_scenes(is_rare),
    "rare_of_number": _of_scenes(is_rare_of_its_number),
    "double": _of_scenes(lambda scene: len(scene.emblems) == 2),
    "unknown": _of_scenes(lambda scene: math.isinf(rarity(scene))),
}
