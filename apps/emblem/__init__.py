"""Emblem: a small captioned picture world with ground truth, and the models trained on it."""

from apps.emblem.data import EmblemDataset
from apps.emblem.render import render
from apps.emblem.world import Emblem, Scene, caption, parse, probability, rarity, sample_scene

__all__ = [
    "Emblem",
    "EmblemDataset",
    "Scene",
    "caption",
    "parse",
    "probability",
    "rarity",
    "render",
    "sample_scene",
]
