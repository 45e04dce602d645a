"""Weaker versions of a denoiser: without its adapters, or another one that stands in for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from guidance.core.family import Family
from guidance.core.perturb import Call, Perturbation


@dataclass(frozen=True)
class WithoutAdapters(Perturbation):
    """The layers of peft adapters, LoRA and its kind, give what they give without them."""

    def check(self, model: nn.Module, family: Family) -> tuple[str, ...]:
        layers = _adapters(model)
        if not layers:
            raise ValueError(
                f"AutoGuidance: weak='without adapters' needs a {type(model).__name__} with "
                "active adapters, found none; load one by pipe.load_lora_weights(...)"
            )
        merged = [path for path, layer in layers.items() if getattr(layer, "merged", False)]
        if merged:
            raise ValueError(
                f"AutoGuidance: weak='without adapters' needs adapters beside the weights, found "
                f"them fused into {merged[0]}; call pipe.unfuse_lora() first"
            )
        return tuple(layers)

    @contextmanager
    def applied(self, model: nn.Module, call: Call) -> Iterator[None]:
        with ExitStack() as stack:
            for path, layer in _adapters(model).items():
                stack.callback(layer.register_forward_hook(partial(_bare, call, path)).remove)
            yield


def _adapters(model: nn.Module) -> dict[str, Any]:
    """Active adapter layers by path; peft's stand around a ``base_layer``."""
    return {
        path: layer
        for path, layer in model.named_modules()
        if hasattr(layer, "base_layer") and not getattr(layer, "disable_adapters", False)
    }


def _bare(call: Call, path: str, layer: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The output of an adapter layer with that of its base in the rows to perturb."""
    rows = call.rows_of(output, path)
    result = output.clone()
    result[rows] = layer.base_layer(args[0][rows]).to(result.dtype)
    return result


class Weaker:
    """A weak denoiser in the place of a strong one, whose tensors it takes and gives.

    Args:
        model: the weak denoiser.
        strong: the other.
        moves: whether it goes to the device that it is called on, as a denoiser loaded here does.
    """

    def __init__(self, model: nn.Module, strong: nn.Module, moves: bool = False) -> None:
        self.model = model
        self._dtypes, self._moves = (_dtype(strong), _dtype(model)), moves

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._moves:
            values = (*args, *kwargs.values())
            self.model.to(next(value.device for value in values if isinstance(value, Tensor)))
        strong, weak = self._dtypes
        if strong == weak:
            return self.model(*args, **kwargs)
        args, kwargs = _cast((args, kwargs), strong, weak)
        return _cast(self.model(*args, **kwargs), weak, strong)


def _dtype(model: nn.Module) -> Any:
    return next((item.dtype for item in model.parameters() if item.is_floating_point()), None)


def _cast(value: Any, old: Any, new: Any) -> Any:
    """The value with its tensors of one dtype in another; times ``(B,)`` keep their precision."""
    if isinstance(value, Tensor):
        return value.to(new) if value.dtype == old and value.ndim > 1 else value
    if isinstance(value, Mapping):
        return type(value)(**{key: _cast(item, old, new) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return type(value)(_cast(item, old, new) for item in value)
    return value


def denoiser_of(value: Any) -> nn.Module | None:
    """A denoiser itself, or that of a pipeline."""
    parts = (value, getattr(value, "transformer", None), getattr(value, "unet", None))
    return next((part for part in parts if isinstance(part, nn.Module)), None)


def load(folder: str, strong: Any) -> nn.Module:
    """The denoiser saved in a folder, of the class and dtype of another one."""
    path = Path(folder)
    if not (path / "config.json").is_file():
        hint = (
            "; name its unet or transformer folder" if (path / "model_index.json").is_file() else ""
        )
        raise ValueError(
            f"AutoGuidance: weak={folder!r} must be the folder of a saved denoiser, found no "
            f"config.json in it{hint}"
        )
    name = json.loads((path / "config.json").read_text()).get("_class_name")
    if name != type(strong).__name__:
        raise ValueError(
            f"AutoGuidance: weak={folder!r} must hold a {type(strong).__name__}, found {name}"
        )
    network = type(strong).from_pretrained(
        folder, torch_dtype=_dtype(strong), local_files_only=True, use_safetensors=True
    )
    return network.eval()


def check_fit(weak: Any, strong: Any) -> None:
    """Raise ValueError where one denoiser cannot stand in for the other."""
    if weak is strong:
        raise ValueError(
            "AutoGuidance: weak must be another denoiser than the strong one, found the same; skip "
            "some of its blocks instead, weak=(...)"
        )
    for name in ("in_channels", "out_channels"):
        own, expected = (getattr(item, "config", {}).get(name) for item in (weak, strong))
        if own != expected:
            raise ValueError(
                f"AutoGuidance: weak must have {name}={expected} like the strong model, found {own}"
            )
