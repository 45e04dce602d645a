"""Latents of the photos, encoded once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from personalize.core.checkpoint import check_finite, write_tensors
from personalize.core.images import Item
from personalize.core.method import Sizes

if TYPE_CHECKING:
    from personalize.core.backbone import Backbone

_FORMAT = "1"


@dataclass(frozen=True)
class View:
    """A square of a photo: its number, and ``crop`` and ``flip`` of ``Item.load``."""

    index: int
    flip: bool = False
    crop: tuple[float, float] = (0.5, 0.5)


@dataclass(frozen=True)
class Latent:
    """Posterior of one view of a photo.

    Attributes:
        mean, std: ``(C, h, w)`` scaled, float32.
        mask: ``(1, h, w)`` in [0, 1], or None.
        sizes: micro-conditioning of this view.
    """

    mean: Tensor
    std: Tensor
    mask: Tensor | None
    sizes: Sizes

    def sample(self, generator: torch.Generator) -> Tensor:
        """One draw from the posterior, with noise from the CPU."""
        noise = torch.randn(self.mean.shape, generator=generator)
        return self.mean + self.std * noise.to(self.mean)


class Latents:
    """Latents of photos, kept where the views of a photo are few.

    Args:
        backbone: encodes pictures.
        items: the photos.
        resolution: side of a square in pixels.
        masked: read the masks.
    """

    def __init__(
        self, backbone: Backbone, items: Sequence[Item], resolution: int, masked: bool
    ) -> None:
        self._backbone = backbone
        self._items = items
        self._resolution = resolution
        self._masked = masked
        self._kept: dict[View, Latent] = {}

    def keep(
        self,
        views: Sequence[View],
        cache: Path | None,
        weights: str,
        on_view: Callable[[], None] = lambda: None,
    ) -> None:
        """Encode views once, or read them from the cache of an earlier run.

        Args:
            views: what to encode.
            cache: file to read, and to write where it holds others; None only encodes.
            weights: hash of what encodes.
            on_view: called after each of them; what it raises ends the encoding.

        Raises:
            FloatingPointError: latents are not finite.
            ValueError: a photo has no mask, or it is empty in this view.
        """
        origin = self._origin(views, weights)
        if cache and (found := _read(cache, origin)) is not None:
            self._kept = dict(zip(views, found, strict=True))
            return
        for view in views:
            self._kept[view] = self._encode(view)
            on_view()
        if cache:
            cache.parent.mkdir(parents=True, exist_ok=True)
            _write(cache, origin, [self._kept[view] for view in views])

    def get(self, view: View) -> Latent:
        """Posterior of a view, which is encoded anew where it is not kept."""
        return self._kept.get(view) or self._encode(view)

    def _encode(self, view: View) -> Latent:
        item = self._items[view.index]
        picture = item.load(self._resolution, view.crop, view.flip)
        _finite(picture.pixels, f"photo {item.name}")
        # Alone, so that no photo depends on the others of a batch.
        posterior = self._backbone.encode_images(picture.pixels[None])
        mean, std = (part[0].float().cpu() for part in posterior)
        _finite(mean, f"the latents of {item.name}")
        _finite(std, f"the latents of {item.name}")
        mask = self._mask(item, picture.mask, mean) if self._masked else None
        target = (self._resolution, self._resolution)
        return Latent(mean, std, mask, Sizes(picture.original, picture.crop, target))

    def _mask(self, item: Item, mask: Tensor | None, like: Tensor) -> Tensor:
        if mask is None:
            raise ValueError(
                f"masked_loss needs a mask of every photo, and {item.name} has none; add "
                f"{item.path.stem}.mask.png, white where the subject is, or turn masked_loss off"
            )
        small = torch.nn.functional.adaptive_avg_pool2d(mask, (like.shape[-2], like.shape[-1]))
        if not small.any():
            raise ValueError(
                f"the mask of {item.name} is black where the photo is cut; paint the subject white"
            )
        return small

    def _origin(self, views: Sequence[View], weights: str) -> str:
        origin = {
            "format": _FORMAT,
            "photos": [item.sha256 for item in self._items],
            "masked": self._masked,
            "views": [asdict(view) for view in views],
            "resolution": self._resolution,
            "weights": weights,
            "dtype": str(self._backbone.pipe.vae.dtype),
        }
        return hashlib.sha256(json.dumps(origin).encode()).hexdigest()


def _finite(tensor: Tensor, what: str) -> None:
    if not bool(tensor.isfinite().all()):
        raise FloatingPointError(f"{what} holds numbers that are not finite")


def _write(cache: Path, origin: str, latents: Sequence[Latent]) -> None:
    tensors: dict[str, Tensor] = {}
    for number, latent in enumerate(latents):
        tensors |= {f"{number}.mean": latent.mean, f"{number}.std": latent.std}
        if latent.mask is not None:
            tensors[f"{number}.mask"] = latent.mask
    sizes = [(latent.sizes.original, latent.sizes.crop, latent.sizes.target) for latent in latents]
    write_tensors(cache, tensors, {"origin": origin, "sizes": json.dumps(sizes)})


def _read(cache: Path, origin: str) -> list[Latent] | None:
    """What the cache holds, or None if it is of another origin or cannot be used."""
    try:
        with safe_open(cache, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("origin") != origin:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            sizes = json.loads(metadata["sizes"])
            check_finite(tensors)
    except (OSError, SafetensorError, FloatingPointError):
        return None
    return [
        Latent(
            tensors[f"{number}.mean"],
            tensors[f"{number}.std"],
            tensors.get(f"{number}.mask"),
            Sizes(*(tuple(size) for size in three)),
        )
        for number, three in enumerate(sizes)
    ]
