"""Networks that save_pretrained wrote, how they want their pictures, and what they are known by."""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor

from apps.pipelines import model_name


def load_network(source: str, loaders: Mapping[str, Callable[..., Any]]) -> Any:
    """A network in float32, ready for inference; its weights come from safetensors only.

    Args:
        source: folder or id on the hub.
        loaders: a ``from_pretrained`` for each ``model_type`` that will do.

    Raises:
        ValueError: there is no such network, it is of another type, or weights are missing.
    """
    kind = load_part(AutoConfig.from_pretrained, source).model_type
    if kind not in loaders:
        raise ValueError(
            f"model {model_name(source)!r} is of type {kind!r}; expected {', '.join(loaders)}"
        )
    network, found = load_part(
        loaders[kind],
        source,
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
    )
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise ValueError(
            f"model {model_name(source)!r} lacks {len(missing)} weights, {missing[0]!r} first; "
            f"give one that was saved as a {type(network).__name__}"
        )
    return network.eval().requires_grad_(False)


def load_part(load: Callable[..., Any], source: str, **options: Any) -> Any:
    """What a ``from_pretrained`` makes of a folder or an id on the hub.

    Raises:
        ValueError: there is no such model, or it cannot be loaded.
    """
    path = Path(source).expanduser()
    if not path.is_dir() and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source):
        raise ValueError(
            f"model {source!r} not found: expected an existing folder or a hub id owner/name"
        )
    try:
        return load(str(path) if path.is_dir() else source, **options)
    except Exception as error:  # loaders below raise errors of many unrelated types
        cure = (
            "check that its files are complete and its weights are in safetensors"
            if path.is_dir()
            else "check the id and the connection, or give a folder"
        )
        reason = textwrap.shorten(str(error), 200, placeholder=" ...") or type(error).__name__
        raise ValueError(f"cannot load model {model_name(source)!r}; {cure} ({reason})") from error


@contextmanager
def exact() -> Iterator[None]:
    """No gradients and no TF32, to which cuDNN rounds convolutions of float32 by default."""
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def weights_hash(network: nn.Module) -> str:
    """sha256 over the name, dtype, shape and bytes of each weight, in the order of their names.

    The same for one network wherever it lies and however its files are cut.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(network.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()


class Preparation:
    """Turns pictures into what a network takes, as its image processor of transformers does.

    Pillow does the resizing, always: other back ends give other pixels.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    @classmethod
    def from_pretrained(cls, source: str) -> Preparation:
        """By the settings saved with a model, in a folder or on the hub."""
        return cls(load_part(AutoImageProcessor.from_pretrained, source, backend="pil"))

    def __call__(self, image: Image.Image) -> Tensor:
        """A picture of any size and mode as float32 (3, H, W)."""
        pixels: Tensor = self.processor(image.convert("RGB"), return_tensors="pt").pixel_values[0]
        return pixels

    def describe(self) -> dict[str, Any]:
        """Size in pixels, crop, resampling, and mean and std of values in [0, 1]."""
        own = self.processor
        resampling = Image.Resampling(own.resample)
        return {
            "size": _sides(own.size) if own.do_resize else None,
            "crop": _sides(own.crop_size) if getattr(own, "do_center_crop", False) else None,
            "resampling": resampling.name.lower(),
            "antialias": resampling is not Image.Resampling.NEAREST,
            "mean": list(own.image_mean),
            "std": list(own.image_std),
        }


def _sides(size: Mapping[str, int | None]) -> dict[str, int]:
    return {side: pixels for side, pixels in dict(size).items() if pixels is not None}
