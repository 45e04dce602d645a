"""The attention layers of a denoiser: where they are, their heads, and what they attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from guidance.core.family import family_of

SELF = ("image", "joint")
"""Kinds of layers whose map is square over the image tokens."""

REASONS = {
    "cross": "cross-attention: its keys are text, so that no image token has a key of its own",
    "linear": "linear attention, which has no attention map",
    "text": "attention among text tokens only",
    "mixed": "attention whose keys are image and text tokens, while its queries are the image's",
}

_HEAD_COUNTS = ("heads", "num_heads", "num_attention_heads")


@dataclass(frozen=True, eq=False)
class Layer:
    """An attention layer.

    Attributes:
        path: dotted name of its module in the denoiser.
        module: the module.
        heads: number of heads.
        kind: ``"image"`` for self-attention over image tokens, ``"joint"`` with text tokens among
            them; ``"cross"``, ``"linear"``, ``"text"`` and ``"mixed"`` cannot be perturbed.
        text_first: whether text tokens come before image tokens.
        patch: side of the square of the sample that a token stands for, 0 if unknown.
    """

    path: str
    module: nn.Module
    heads: int
    kind: str
    text_first: bool = False
    patch: int = 0

    @property
    def block(self) -> str:
        """Path of the transformer block around the layer; of the layer itself if there is none."""
        return self.path.rpartition(".")[0]


_LAYERS: WeakKeyDictionary[nn.Module, tuple[Layer, ...]] = WeakKeyDictionary()


def layers_of(model: nn.Module) -> tuple[Layer, ...]:
    """All attention layers of a denoiser, in the order of its modules."""
    if model not in _LAYERS:
        family = family_of(model)
        tokens = ("image",) if family is None else family.tokens
        joint, patch = "text" in tokens, _patch(model)
        mixed = type(model).__name__ == "StableCascadeUNet"
        _LAYERS[model] = tuple(
            Layer(
                path,
                module,
                heads,
                "mixed" if mixed else _kind(path, module, joint),
                tokens[0] == "text",
                patch,
            )
            for path, module in model.named_modules()
            if hasattr(module, "processor") and (heads := _head_count(module))
        )
    return _LAYERS[model]


def _patch(model: Any) -> int:
    config = getattr(model, "config", {})
    sides = config.get("patch_size") or config.get("all_patch_size") or 0
    return sides if isinstance(sides, int) else sides[-1]


def _head_count(module: Any) -> int:
    counts = (getattr(module, name, None) for name in _HEAD_COUNTS)
    return next((count for count in counts if isinstance(count, int)), 0)


def _kind(path: str, module: Any, joint: bool) -> str:
    parts = path.split(".")
    added = getattr(module, "add_k_proj", None) is not None
    if any(word in part for part in parts for word in ("text", "txt", "token_refiner")):
        return "text"
    if _crosses(parts[-1], module, added):
        return "cross"
    if "Linear" in type(module.processor).__name__:
        return "linear"
    if added:
        return "joint"
    alone = parts[-1] == "attn2" or "noise_refiner" in parts
    return "joint" if joint and not alone else "image"


def _crosses(name: str, module: Any, added: bool) -> bool:
    flag = getattr(module, "is_cross_attention", None)
    if flag is None:
        return name.endswith("attn2") or "cross" in name or "_to_" in name
    # Kandinsky 2 and DeepFloyd IF append text keys to those of the image and call that "cross".
    appended = added and getattr(module, "only_cross_attention", True) is False
    return bool(flag) and not appended
