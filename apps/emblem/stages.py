"""The stages of ``python -m apps.emblem train`` and what each needs and leaves behind."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from apps.emblem import autoencoder, classifier, contrastive, diffusion, models, ship
from apps.training.state import Recipe


class Stages:
    """Trains the models one by one in a run folder and writes what ships to ``out``.

    Args:
        run: folder of the runs: checkpoints, logs, samples, caches.
        out: folder that receives ``emblem-unet`` and the others.
        seed: seed of every stage.
        steps: number of steps in place of each recipe's own, for a trial.
        pictures: number of training pictures in place of each stage's own, for a trial.
    """

    def __init__(
        self,
        run: Path,
        out: Path,
        seed: int,
        steps: int | None = None,
        pictures: int | None = None,
    ) -> None:
        self.run, self.out, self.seed = run, out, seed
        self._steps, self._pictures = steps, pictures

    def _recipe(self, recipe: Recipe) -> Recipe:
        if self._steps is None:
            return recipe
        return replace(recipe, steps=self._steps, warmup=min(recipe.warmup, self._steps // 10))

    def _length(self, length: int) -> int:
        return length if self._pictures is None else self._pictures

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
        vae = autoencoder.train_vae(
            self.run,
            self.seed,
            self._recipe(autoencoder.RECIPE),
            self._length(autoencoder.PICTURES),
        )
        vae.save_pretrained(self.run / "finished" / "vae")

    def clip(self) -> None:
        """Train CLIP and write emblem-clip."""
        clip = contrastive.train_clip(
            self.run,
            self.seed,
            self._recipe(contrastive.RECIPE),
            self._length(contrastive.PICTURES),
        )
        finished = self.run / "finished" / "clip"
        clip.save_pretrained(finished)
        models.build_tokenizer().save_pretrained(finished)
        ship.ship_clip(clip, models.build_tokenizer(), self.out / "emblem-clip")

    def classifier(self) -> None:
        """Train the scorer and write emblem-classifier."""
        trained = classifier.train_classifier(
            self.run, self.seed, self._recipe(classifier.RECIPE), self._length(classifier.PICTURES)
        )
        ship.ship_classifier(trained, self.out / "emblem-classifier")

    def _cache(self) -> tuple[diffusion.Cache, AutoencoderKL, Path]:
        device = Accelerator().device
        vae = AutoencoderKL.from_pretrained(self._finished("vae")).to(device).eval()
        clip = self._finished("clip")
        _, text_encoder, tokenizer = ship.text_towers(clip)
        path = self.run / "cache.safetensors"
        cache, factor = diffusion.build_cache(
            path,
            vae,
            text_encoder.to(device).eval(),
            tokenizer,
            self._length(diffusion.PICTURES),
            self.seed + 100,
        )
        return cache, ship.scaled(vae, factor), clip

    def unet(self) -> None:
        """Train the UNet; write emblem-unet and emblem-unet-weak."""
        cache, vae, clip = self._cache()
        torch.manual_seed(self.seed)
        pipe = ship.unet_pipeline(models.build_unet(), vae, clip)
        recipe = self._recipe(diffusion.UNET_RECIPE)
        diffusion.train_unet(pipe, self.run, cache, self.seed, recipe)
        ship.ship_pipeline(pipe, self.out / "emblem-unet")
        weak = models.build_unet()
        snapshot = self.run / "unet" / f"step-{diffusion.weak_step(recipe)}.safetensors"
        weak.load_state_dict(load_file(snapshot))
        weak.half().save_pretrained(self.out / "emblem-unet-weak")

    def dit(self) -> None:
        """Train the MM-DiT and write emblem-dit."""
        cache, vae, clip = self._cache()
        torch.manual_seed(self.seed)
        pipe = ship.dit_pipeline(models.build_dit(), vae, clip)
        diffusion.train_dit(pipe, self.run, cache, self.seed, self._recipe(diffusion.DIT_RECIPE))
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
