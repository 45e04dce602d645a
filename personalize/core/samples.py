"""What is random in a run, drawn sample by sample.

Sample ``g`` of a run has a generator of its own, seeded by ``(seed, g)``. So it does not matter how
the samples of a step are spread over processes, batches and accumulation, and nothing of a
generator has to be saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from personalize.core.images import Item
from personalize.core.latents import Latent, Latents, View
from personalize.core.method import Batch
from personalize.core.targets import Noising
from personalize.zeroth_order import partial_uniform_timesteps

if TYPE_CHECKING:
    from personalize.core.settings import DataSettings, TrainSettings


def seed_of(seed: int, stream: str, number: int = 0) -> int:
    """Seed of one generator among many that have nothing to do with each other."""
    digest = hashlib.sha256(f"{seed} {stream} {number}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, items: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
    return tuple(torch.randperm(items, generator=generator).tolist())


@dataclass(frozen=True)
class _Sample:
    """One sample: the photo, its text, its latent, the noise, and the level of the noise."""

    number: int
    item: Item
    prompt: str
    latent: Latent
    clean: Tensor
    noise: Tensor
    level: int


class Samples:
    """Makes the batches of a run.

    Args:
        items, latents: the photos.
        noising: noise levels of the model.
        settings, data: of the run.
        device: of the batches.
    """

    def __init__(
        self,
        items: Sequence[Item],
        latents: Latents,
        noising: Noising,
        settings: TrainSettings,
        data: DataSettings,
        device: torch.device,
    ) -> None:
        self._items = items
        self._latents = latents
        self._noising = noising
        self._settings = settings
        self._data = data
        self._device = device
        self._band = noising.band(settings.timestep_low, settings.timestep_high)

    def few_views(self) -> list[View]:
        """The views that the run will ask for again and again."""
        centers = [View(index) for index in range(len(self._items))]
        if self._data.crop == "random":
            return centers if self._settings.validation_samples else []
        return centers + ([replace(view, flip=True) for view in centers] if self._data.flip else [])

    def batch(self, step: int, numbers: Sequence[int]) -> Batch:
        """The samples with these numbers in the run."""
        return self._collate(step, [self._draw(number) for number in numbers])

    def fixed(self, number: int, count: int) -> Batch:
        """Sample ``number`` of ``count`` for validation: the noise levels are evenly spaced."""
        low, high = self._band
        level = low + int((number + 0.5) / count * (high - low))
        index = number % len(self._items)
        item = self._items[index]
        generator = self._generator("validation", number)
        latent = self._latents.get(View(index))
        clean = latent.mean
        noise = torch.randn(clean.shape, generator=generator)
        prompt = item.prompts[number // len(self._items) % len(item.prompts)]
        return self._collate(0, [_Sample(number, item, prompt, latent, clean, noise, level)])

    def _draw(self, number: int) -> _Sample:
        epoch, place = divmod(number, len(self._items))
        index = _order(self._settings.seed, epoch, len(self._items))[place]
        item, generator = self._items[index], self._generator("sample", number)
        mirror, down, across = torch.rand(3, generator=generator).tolist()
        crop = (down, across) if self._data.crop == "random" else (0.5, 0.5)
        latent = self._latents.get(View(index, mirror < self._data.flip, crop))
        prompt = item.prompts[int(torch.randint(len(item.prompts), (), generator=generator))]
        level = int(partial_uniform_timesteps(1, *self._band, generator))
        clean = latent.sample(generator)
        noise = torch.randn(clean.shape, generator=generator)
        return _Sample(number, item, prompt, latent, clean, noise, level)

    def _collate(self, step: int, samples: Sequence[_Sample]) -> Batch:
        clean = torch.stack([sample.clean for sample in samples])
        noise = torch.stack([sample.noise for sample in samples])
        levels = torch.tensor([sample.level for sample in samples])
        masks = [sample.latent.mask for sample in samples if sample.latent.mask is not None]
        noising, to = self._noising, self._device
        return Batch(
            step=step,
            samples=tuple(sample.number for sample in samples),
            items=tuple(sample.item for sample in samples),
            prompts=tuple(sample.prompt for sample in samples),
            sizes=tuple(sample.latent.sizes for sample in samples),
            latents=clean.to(to),
            noise=noise.to(to),
            timesteps=noising.timesteps[levels].to(to),
            noisy=noising.noisy(clean, noise, levels).to(to),
            target=noising.target(clean, noise, levels).to(to),
            weights=noising.weights(levels, self._settings.snr_gamma).to(to),
            masks=torch.stack(masks).to(to) if masks else None,
            seed=seed_of(self._settings.seed, "method", step),
        )

    def _generator(self, stream: str, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed_of(self._settings.seed, stream, number))
