"""What a network's weights are known by, so that files can name the models they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

_SAMPLED = 1024
"""Values of each weight that ``weights_hash`` is over."""

_VALUES = 128
"""Values of a whole network in its fingerprint."""


def weights_hash(model: nn.Module) -> str:
    """sha256 over the names and shapes of a denoiser's weights and a sample of their values.

    Of each weight at most 1024 values, evenly spaced and rounded to bfloat16: quick on large models
    and the same in float32 as in bfloat16, but no proof that two models are equal. In float16 some
    values round twice and the hash is another; ``fingerprint`` does without that.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        if isinstance(weight, Tensor):
            digest.update(f"{name} {tuple(weight.shape)}\n".encode())
            if not weight.is_meta:  # offloaded; its values are out of reach
                digest.update(_sample(weight).numpy().tobytes())
    return digest.hexdigest()


def _sample(weight: Tensor) -> Tensor:
    values = weight.detach().flatten()
    values = values[:: max(1, -(-len(values) // _SAMPLED))]
    return values.cpu().to(torch.bfloat16).view(torch.int16)


def fingerprint(model: nn.Module, counts: Callable[[str], bool] = bool) -> str:
    """Digest of the names and shapes of a network's weights, and values out of 128 of them.

    One that ``matches`` the fingerprint of the same network in float32, float16 and bfloat16.

    Args:
        model: the network.
        counts: whether a weight takes part, by its name.
    """
    weights = {
        name: weight
        for name, weight in sorted(model.state_dict().items())
        if isinstance(weight, Tensor) and weight.numel() and counts(name)
    }
    shapes = "".join(f"{name} {tuple(weight.shape)}\n" for name, weight in weights.items())
    every = max(1, -(-len(weights) // _VALUES))
    values = [
        weight.new_full((), torch.nan, dtype=torch.float32, device="cpu")
        if weight.is_meta  # offloaded; its values are out of reach
        else weight.detach().flatten()[weight.numel() // 2].cpu().float()
        for weight in list(weights.values())[::every]
    ]
    return f"{hashlib.sha256(shapes.encode()).hexdigest()[:16]}:{to_text(torch.stack(values))}"


def matches(one: str, other: str) -> bool:
    """Whether two fingerprints are of one network up to the rounding of half precision."""
    (shapes, a), (expected, b) = (text.split(":") for text in (one, other))
    if shapes != expected or len(a) != len(b):
        return False
    x, y = from_text(a), from_text(b)
    # Neighbours in bfloat16 differ by 2^-7, and float16 is spaced by 6e-8 near zero.
    near = (x - y).abs() <= 2**-7 * torch.maximum(x.abs(), y.abs()) + 1e-7
    return bool((near | x.isnan() | y.isnan()).all())


def to_text(values: Tensor) -> str:
    """Numbers ``(n,)`` rounded to bfloat16, as four hexadecimal digits each."""
    bits = values.detach().cpu().to(torch.bfloat16).view(torch.int16)
    return "".join(f"{number & 0xFFFF:04x}" for number in bits.tolist())


def from_text(text: str) -> Tensor:
    """What ``to_text`` wrote, in float32; raises ValueError for any other text."""
    if len(text) % 4 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"expected hexadecimal digits by four, found {text!r:.40}")
    numbers = [int(text[at : at + 4], 16) for at in range(0, len(text), 4)]
    signed = [number - 0x10000 if number >= 0x8000 else number for number in numbers]
    return torch.tensor(signed, dtype=torch.int16).view(torch.bfloat16).float()
