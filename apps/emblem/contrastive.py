"""Training of emblem-clip, whose text tower is the text encoder of both diffusion models."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPModel

from apps.emblem import models
from apps.emblem.pictures import draw_captions, draw_pictures, to_tensor, tokenize
from apps.training.batch import Batch, gathered
from apps.training.contrastive import contrastive_loss
from apps.training.state import Recipe
from apps.training.trainer import train

RECIPE = Recipe(steps=1000, batch=192, lr=3e-3, weight_decay=0.05, bf16=True)
PICTURES = 30_000


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
        every = gathered(chosen.to(device))
        same = (every[:, None] == every[None, :]).float()
        scale = clip.logit_scale.exp().clamp(max=100)
        return contrastive_loss(
            gathered(output.image_embeds), gathered(output.text_embeds), scale, same
        )

    train(clip, loss, recipe, len(pictures.scenes), root / "clip", seed=seed)
    return clip
