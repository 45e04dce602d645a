"""Training of emblem-clip, whose text tower is the text encoder of both diffusion models."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel

from apps.emblem import models
from apps.emblem.pictures import draw_captions, draw_pictures, to_tensor, tokenize
from apps.emblem.state import Recipe
from apps.emblem.trainer import Batch, train

RECIPE = Recipe(steps=1000, batch=192, lr=3e-3, weight_decay=0.05, bf16=True)
PICTURES = 30_000


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """Symmetric cross-entropy over the similarities (B, B); equal captions share the target."""
    logits = scale * F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train_clip(root: Path, seed: int, recipe: Recipe = RECIPE, length: int = PICTURES) -> CLIPModel:
    """Train CLIP on pictures of the training world with their captions."""
    torch.manual_seed(seed)
    tokenizer = models.build_tokenizer()
    clip = models.build_clip(tokenizer)
    pictures = draw_pictures(length, seed + 1, any_share=0.0)
    texts, numbers = draw_captions(pictures.scenes, seed + 2, each=4)
    tokens = tokenize(tokenizer, texts)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        device = next(model.parameters()).device
        chosen = numbers[batch.indices].gather(1, batch.randint(4, 1)).squeeze(1)
        output = model(
            input_ids=tokens[chosen].to(device),
            pixel_values=to_tensor(pictures.images[batch.indices.numpy()]).to(device),
        )
        same = (chosen[:, None] == chosen[None, :]).float().to(device)
        scale = clip.logit_scale.exp().clamp(max=100)
        return contrastive_loss(output.image_embeds, output.text_embeds, scale, same)

    train(clip, loss, recipe, len(pictures.scenes), root / "clip", seed=seed)
    return clip
