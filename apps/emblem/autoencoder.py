"""Training of the autoencoder that both diffusion models share."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from apps.emblem import models
from apps.emblem.pictures import draw_pictures, save_grid, to_tensor
from apps.training.batch import Batch
from apps.training.state import Recipe
from apps.training.trainer import train

RECIPE = Recipe(steps=2200, batch=24, lr=3e-3, weight_decay=0.0, ema=0.995, bf16=True)
PICTURES = 24_000


def _edges(images: Tensor) -> tuple[Tensor, Tensor]:
    return images.diff(dim=-1), images.diff(dim=-2)


def vae_loss(vae: AutoencoderKL, target: Tensor, noise: Tensor) -> Tensor:
    """L1 + L2 on pixels, L1 on their differences (edges carry the textures), and 5e-4 KL."""
    posterior = vae.encode(target).latent_dist
    decoded = vae.decode(posterior.mean + posterior.std * noise.to(posterior.mean)).sample.float()
    edges = sum(F.l1_loss(a, b) for a, b in zip(_edges(decoded), _edges(target), strict=True))
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return F.l1_loss(decoded, target) + F.mse_loss(decoded, target) + edges + 5e-4 * kl


def train_vae(
    root: Path, seed: int, recipe: Recipe = RECIPE, length: int = PICTURES
) -> AutoencoderKL:
    """Train the autoencoder on pictures of everything that can be drawn."""
    torch.manual_seed(seed)
    vae = models.build_vae()
    pictures = draw_pictures(length, seed + 1, any_share=0.4).images
    held = to_tensor(draw_pictures(32, seed + 2, any_share=0.5).images)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        target = to_tensor(pictures[batch.indices.numpy()]).to(next(model.parameters()).device)
        return vae_loss(model, target, batch.randn(4, models.LATENT_SIZE, models.LATENT_SIZE))

    def sample(model: AutoencoderKL, path: Path) -> None:
        shown = held.to(next(model.parameters()).device)
        decoded = model.decode(model.encode(shown).latent_dist.mean).sample
        save_grid(torch.cat([shown, decoded.float()]).cpu(), path, columns=16)

    return train(
        vae, loss, recipe, len(pictures), root / "vae", seed=seed, sample=sample, sample_every=250
    )
