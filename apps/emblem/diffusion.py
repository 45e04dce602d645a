"""Training of the two Emblem diffusion models on cached latents and cached text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
)
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from apps.emblem.pictures import draw_captions, draw_pictures, save_grid, to_tensor, tokenize
from apps.emblem.world import caption, sample_scene
from apps.emblem.zero_tokens import count_last_token
from apps.training.batch import Batch
from apps.training.state import Recipe, write_tensors
from apps.training.trainer import train

CAPTIONS_EACH = 4
CAPTION_DROPOUT = 0.1
MIN_SNR_GAMMA = 5.0
PICTURES = 40_000

UNET_RECIPE = Recipe(steps=6_000, batch=64, lr=2e-3, ema=0.999)
WEAK_AT = 800
"""Step of the UNet's run whose weights are kept as the weak model."""

DIT_RECIPE = Recipe(steps=4_000, batch=64, lr=2e-3, ema=0.999)


@dataclass(frozen=True)
class Cache:
    """What the diffusion models train on.

    Attributes:
        mean, std: latent posteriors (N, 4, 8, 8), scaled to unit variance over the set.
        captions: text number of each picture's captions (N, each); text 0 is the empty prompt.
        last, penultimate: text encoder's hidden states (T, 32, 96), with and without final norm.
        pooled: projected text embeddings (T, 96).
    """

    mean: Tensor
    std: Tensor
    captions: Tensor
    last: Tensor
    penultimate: Tensor
    pooled: Tensor


def _origin(modules: Sequence[nn.Module], length: int, seed: int) -> str:
    """Hash of what a cache is made from."""
    digest = sha256(f"{length} {seed}".encode())
    for module in modules:
        for value in module.state_dict().values():
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _made_from(path: Path) -> str | None:
    """The origin that a cache file remembers, None if there is no file."""
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("origin")


@torch.no_grad()
def build_cache(
    path: Path,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModelWithProjection,
    tokenizer: CLIPTokenizer,
    length: int,
    seed: int,
) -> tuple[Cache, float]:
    """Encode ``length`` training pictures and their captions, or read them back from ``path``.

    A file made from other models, pictures or seeds is replaced.

    Returns the cache and the latents' scaling factor, ``1 / std``.
    """
    origin = _origin([vae, text_encoder], length, seed)
    if _made_from(path) != origin:
        pictures = draw_pictures(length, seed, any_share=0.0)
        means, stds = [], []
        for start in range(0, length, 256):
            images = to_tensor(pictures.images[start : start + 256]).to(vae.device)
            posterior = vae.encode(images).latent_dist
            means.append(posterior.mean.cpu())
            stds.append(posterior.std.cpu())
        mean, std = torch.cat(means), torch.cat(stds)
        factor = 1 / (mean.var() + std.square().mean()).sqrt()
        texts, captions = draw_captions(pictures.scenes, seed + 1, CAPTIONS_EACH)
        tokens = tokenize(tokenizer, ["", *texts]).to(text_encoder.device)
        last, penultimate, pooled = [], [], []
        for part in tokens.split(512):
            encoded = text_encoder(part, output_hidden_states=True)
            last.append(encoded.last_hidden_state.cpu())
            penultimate.append(encoded.hidden_states[-2].cpu())
            pooled.append(encoded.text_embeds.cpu())
        tensors = {
            "mean": mean * factor,
            "std": std * factor,
            "captions": captions + 1,
            "last": torch.cat(last),
            "penultimate": torch.cat(penultimate),
            "pooled": torch.cat(pooled),
            "factor": factor,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, tensors, {"origin": origin})
    tensors = load_file(path)
    return Cache(**{k: t for k, t in tensors.items() if k != "factor"}), float(tensors["factor"])


def _latents_and_texts(cache: Cache, batch: Batch) -> tuple[Tensor, Tensor]:
    """Latents drawn from their posteriors (B, 4, 8, 8) and text numbers (B,), some dropped to 0."""
    rows = batch.indices
    latents = cache.mean[rows] + cache.std[rows] * batch.randn(*cache.mean.shape[1:])
    chosen = cache.captions[rows].gather(1, batch.randint(CAPTIONS_EACH, 1)).squeeze(1)
    return latents, torch.where(batch.rand(1)[:, 0] < CAPTION_DROPOUT, 0, chosen)


def _sampler(pipe: DiffusionPipeline, **call: Any) -> Callable[[nn.Module, Path], None]:
    """A grid of pictures of fixed prompts and noise, guidance scale 4."""
    rngs = (np.random.default_rng([77, index]) for index in range(32))
    prompts = [caption(sample_scene(rng)) for rng in rngs]
    pipe.set_progress_bar_config(disable=True)

    def sample(model: nn.Module, path: Path) -> None:
        pipe.to(next(model.parameters()).device)
        images = pipe(
            prompts,
            guidance_scale=4.0,
            num_inference_steps=25,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
            **call,
        ).images
        save_grid(images.cpu() * 2 - 1, path, columns=8)

    return sample


def weak_step(recipe: Recipe) -> int:
    """Step whose weights are kept as the weak model; the last one of a run that ends before."""
    return min(WEAK_AT, recipe.steps)


def train_unet(
    pipe: StableDiffusionPipeline,
    root: Path,
    cache: Cache,
    seed: int,
    recipe: Recipe = UNET_RECIPE,
) -> None:
    """Noise prediction on SD1.5's schedule, min-SNR-5 weights (Hang et al. 2023, 2303.09556)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    bars = (1 - betas).cumprod(0)
    weights = (MIN_SNR_GAMMA / (bars / (1 - bars))).clamp(max=1)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        device = next(model.parameters()).device
        latents, texts = _latents_and_texts(cache, batch)
        noise = batch.randn(*latents.shape[1:])
        t = batch.randint(1000, 1)[:, 0]
        bar = bars[t][:, None, None, None]
        noisy = bar.sqrt() * latents + (1 - bar).sqrt() * noise
        predicted = model(noisy.to(device), t.to(device), cache.last[texts].to(device)).sample
        error = F.mse_loss(predicted.float().cpu(), noise, reduction="none").mean((1, 2, 3))
        return (weights[t] * error).mean()

    train(
        pipe.unet,
        loss,
        recipe,
        len(cache.mean),
        root / "unet",
        seed=seed,
        snapshots=(weak_step(recipe),),
        sample=_sampler(pipe),
    )


def train_dit(
    pipe: StableDiffusion3Pipeline,
    root: Path,
    cache: Cache,
    seed: int,
    recipe: Recipe = DIT_RECIPE,
) -> None:
    """Flow matching with logit-normal times (Esser et al. 2024, 2403.03206, eq. 12 and 19)."""
    processors = pipe.transformer.attn_processors
    zeros = count_last_token(pipe.transformer)
    texts_of = torch.cat([cache.penultimate, cache.penultimate], dim=-1)
    texts_of = F.pad(texts_of, (0, 0, 0, 1))
    pooled_of = torch.cat([cache.pooled, cache.pooled], dim=-1)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        device = next(model.parameters()).device
        latents, texts = _latents_and_texts(cache, batch)
        noise = batch.randn(*latents.shape[1:])
        sigma = batch.randn(1)[:, 0].sigmoid()
        s = sigma[:, None, None, None]
        zeros.count = round(2 ** (8 * float(batch.rand()[0])))
        predicted = model(
            hidden_states=((1 - s) * latents + s * noise).to(device),
            timestep=(1000 * sigma).to(device),
            encoder_hidden_states=texts_of[texts].to(device),
            pooled_projections=pooled_of[texts].to(device),
        ).sample
        return F.mse_loss(predicted.float().cpu(), noise - latents)

    draw = _sampler(pipe, max_sequence_length=1)

    def sample(model: nn.Module, path: Path) -> None:
        zeros.count = 1
        draw(model, path)

    train(pipe.transformer, loss, recipe, len(cache.mean), root / "dit", seed=seed, sample=sample)
    pipe.transformer.set_attn_processor(processors)
