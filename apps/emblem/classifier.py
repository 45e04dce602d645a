"""Training of the scorer: attributes of everything that can be drawn, and what cannot be told."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetForImageClassification

from apps.emblem import models
from apps.emblem.pictures import draw_pictures, to_tensor
from apps.emblem.score import labels, split_heads
from apps.training.batch import Batch
from apps.training.state import Recipe
from apps.training.trainer import train

RECIPE = Recipe(steps=3200, batch=96, lr=5e-3, weight_decay=0.02, ema=0.99)
PICTURES = 50_000


def corrupt(images: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Make half of the pictures (B, 3, H, W) hard, and a quarter of them unrecognisable.

    Returns the pictures and a bool (B,), True where the attributes can still be told. Those keep
    small flaws (a blur below a pixel, faint noise, a tint). The others are two pictures blended, a
    patchwork of two pictures, a heavy blur, or noise.
    """
    count = len(images)
    kind = batch.rand(1)[:, 0]
    other = images.roll(1, dims=0)
    flawed = images + 0.06 * batch.rand(1)[:, :, None, None] * batch.randn(3, *images.shape[2:])
    flawed = flawed + 0.1 * (batch.rand(3)[:, :, None, None] - 0.5)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    amount = batch.rand(1)[:, :, None, None]
    flawed = torch.where(kind[:, None, None, None] < 0.5, flawed, images + amount * (soft - images))
    blend = torch.lerp(images, other, 0.3 + 0.4 * batch.rand(1)[:, :, None, None])
    tiles = (batch.rand(1, 8, 8) < 0.5).repeat_interleave(8, 2).repeat_interleave(8, 3)
    patchwork = torch.where(tiles, images, other)
    small = F.interpolate(images, size=(6, 6), mode="area")
    blurred = F.interpolate(small, size=images.shape[2:], mode="bicubic")
    noisy = images + 1.2 * batch.randn(3, *images.shape[2:])
    spoiled = torch.stack([blend, patchwork, blurred, noisy])
    pick = batch.randint(4, 1)[:, 0]
    ruined = spoiled[pick, torch.arange(count)]
    told = kind < 0.75
    result = torch.where(told[:, None, None, None], flawed, ruined)
    clean = batch.rand(1)[:, :, None, None] < 0.4
    return torch.where(clean & told[:, None, None, None], images, result).clamp(-1, 1), told


def scorer_loss(logits: Tensor, truth: Tensor, told: Tensor) -> Tensor:
    """Sum over the heads of the cross-entropy, attributes only where they can be told.

    ``truth`` (B, heads) holds class numbers, -1 where a head has nothing to say.
    """
    total = logits.new_zeros(())
    for index, (name, part) in enumerate(split_heads(logits).items()):
        if name == "recognisable":
            total = total + F.cross_entropy(part, told.long())
        else:
            target = torch.where(told, truth[:, index], -1)
            summed = F.cross_entropy(part, target, ignore_index=-1, reduction="sum")
            total = total + summed / (target >= 0).sum().clamp(min=1)
    return total


def train_classifier(
    root: Path, seed: int, recipe: Recipe = RECIPE, length: int = PICTURES
) -> ResNetForImageClassification:
    """Train the scorer on pictures of everything that can be drawn, some of them spoiled."""
    torch.manual_seed(seed)
    classifier = models.build_classifier()
    pictures = draw_pictures(length, seed + 1, any_share=0.6)
    truth = torch.tensor([labels(scene) for scene in pictures.scenes])

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        device = next(model.parameters()).device
        images, told = corrupt(to_tensor(pictures.images[batch.indices.numpy()]), batch)
        logits = model(images.to(device)).logits.float()
        return scorer_loss(logits, truth[batch.indices].to(device), told.to(device))

    train(classifier, loss, recipe, len(pictures.scenes), root / "classifier", seed=seed)
    return classifier
