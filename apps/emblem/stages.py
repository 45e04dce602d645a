"""The stages of ``python -m apps.emblem train`` and what each needs and leaves behind."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTokenizer

from apps.emblem import models, ship
from apps.emblem.autoencoder import RECIPE as VAE_RECIPE
from apps.emblem.autoencoder import train_vae
from apps.emblem.classifier import RECIPE as CLASSIFIER_RECIPE
from apps.emblem.classifier import train_classifier
from apps.emblem.contrastive import RECIPE as CLIP_RECIPE
from apps.emblem.contrastive import train_clip
from apps.emblem.diffusion import (
    DIT_RECIPE,
    PICTURES,
    UNET_RECIPE,
    WEAK_AT,
    Cache,
    build_cache,
    train_dit,
    train_unet,
)
from apps.emblem.trainer import Recipe


class Stages:
    """Trains the models one by one in a run folder and writes what ships to ``out``.

    Args:
        run: folder of the runs: checkpoints, logs, samples, caches.
        out: folder that receives ``emblem-unet`` and the others.
        seed: seed of every stage.
        steps: number of steps in place of each recipe's own, for a trial.
        pictures: training pictures of the diffusion models in place of 40,000, for a trial.
    """

    def __init__(
        self, run: Path, out: Path, seed: int, steps: int | None = None, pictures: int = PICTURES
    ) -> None:
        self.run, self.out, self.seed = run, out, seed
        self._steps, self._pictures = steps, pictures

    def _recipe(self, recipe: Recipe) -> Recipe:
        if self._steps is None:
            return recipe
        return replace(recipe, steps=self._steps, warmup=min(recipe.warmup, self._steps // 10))

    def _finished(self, stage: str) -> Path:
        path = self.run / "finished" / stage
        if not path.exists():
            raise ValueError(
                f"{path} does not exist; run `python -m apps.emblem train {stage}` with the same "
                "--run first"
            )
        return path

    def vae(self) -> None:
        """Train the autoencoder."""
        vae = train_vae(self.run, self.seed, self._recipe(VAE_RECIPE))
        vae.save_pretrained(self.run / "finished" / "vae")

    def clip(self) -> None:
        """Train CLIP and write emblem-clip."""
        clip, tokenizer = train_clip(self.run, self.seed, self._recipe(CLIP_RECIPE))
        finished = self.run / "finished" / "clip"
        clip.save_pretrained(finished)
        tokenizer.save_pretrained(finished)
        ship.ship_clip(
            CLIPModel.from_pretrained(finished),
            CLIPTokenizer.from_pretrained(finished),
            self.out / "emblem-clip",
        )

    def classifier(self) -> None:
        """Train the scorer and write emblem-classifier."""
        classifier = train_classifier(self.run, self.seed, self._recipe(CLASSIFIER_RECIPE))
        ship.ship_classifier(classifier, self.out / "emblem-classifier")

    def _cache(self) -> tuple[Cache, AutoencoderKL, Path]:
        vae = AutoencoderKL.from_pretrained(self._finished("vae")).eval()
        clip = self._finished("clip")
        _, text_encoder, tokenizer = ship.text_towers(clip)
        path = self.run / "cache.safetensors"
        cache, factor = build_cache(
            path, vae, text_encoder.eval(), tokenizer, self._pictures, self.seed + 100
        )
        return cache, ship.scaled(vae, factor), clip

    def unet(self) -> None:
        """Train the UNet; write emblem-unet and emblem-unet-weak."""
        cache, vae, clip = self._cache()
        torch.manual_seed(self.seed)
        pipe = ship.unet_pipeline(models.build_unet(), vae, clip)
        train_unet(pipe, self.run, cache, self.seed, self._recipe(UNET_RECIPE))
        ship.ship_pipeline(pipe, self.out / "emblem-unet")
        snapshot = self.run / "unet" / f"step-{WEAK_AT}.safetensors"
        if snapshot.exists():
            weak = models.build_unet()
            weak.load_state_dict(load_file(snapshot))
            weak.half().save_pretrained(self.out / "emblem-unet-weak")

    def dit(self) -> None:
        """Train the MM-DiT and write emblem-dit."""
        cache, vae, clip = self._cache()
        torch.manual_seed(self.seed)
        pipe = ship.dit_pipeline(models.build_dit(), vae, clip)
        train_dit(pipe, self.run, cache, self.seed, self._recipe(DIT_RECIPE))
        ship.ship_pipeline(pipe, self.out / "emblem-dit")

    def all(self) -> dict[str, Callable[[], None]]:
        """Every stage by name, in the order of what it needs."""
        return {
            "vae": self.vae,
            "clip": self.clip,
            "classifier": self.classifier,
            "unet": self.unet,
            "dit": self.dit,
        }
