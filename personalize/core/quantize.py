"""Weights in int8: a quarter of the memory of float32, for models that are not trained.

Each Linear and Conv2d keeps whole numbers from -127 to 127 and one scale for each output channel,
``W = s round(W / s)`` with ``s = max |W| / 127``, and makes its weight anew at every call: it saves
memory, and no time. Symmetric rounding as in "Efficient Personalization of Quantized Diffusion
Model without Backpropagation", Seo et al., 2025, arXiv 2503.14868, equation 2, there with one scale
for several channels left open. Kept libraries quantize no Conv2d (torchao, bitsandbytes), which
hold two thirds of the weights of Stable Diffusion 1.5's UNet, or are slower on a CPU (quanto).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LARGEST = 127


class _Int8(nn.Module):
    """A layer whose weight is made from int8 codes; its dtype is that of the scales."""

    codes: Tensor
    scales: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        codes, scales = quantize_weight(layer.weight.detach())
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales.to(layer.weight.dtype))
        self.bias = layer.bias
        self.training = layer.training

    @property
    def weight(self) -> Tensor:
        """The weight in the dtype of the scales."""
        return self.codes.to(self.scales.dtype) * self.scales


class Int8Linear(_Int8):
    """A Linear with a weight of int8 codes."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        """As of the Linear, in the dtype of ``x``."""
        return F.linear(x, self.weight.to(x.dtype), self.bias)


class Int8Conv2d(_Int8):
    """A Conv2d with a weight of int8 codes."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel_size, self.stride = layer.kernel_size, layer.stride
        self.padding, self.dilation, self.groups = layer.padding, layer.dilation, layer.groups

    def forward(self, x: Tensor) -> Tensor:
        """As of the Conv2d, in the dtype of ``x``."""
        settings: Any = (self.stride, self.padding, self.dilation, self.groups)
        return F.conv2d(x, self.weight.to(x.dtype), self.bias, *settings)


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (int8, in the weight's shape) and float32 scales ``(channels, 1, ...)`` of a weight.

    ``codes * scales`` differs from the weight by at most half a scale; a channel of zeros stays so.

    Raises:
        ValueError: the weight is not finite.
    """
    w = weight.float()
    if not bool(w.isfinite().all()):
        raise ValueError("a weight to quantize must be finite, found nan or infinity in it")
    scales = w.abs().amax(tuple(range(1, w.ndim)), keepdim=True) / _LARGEST
    codes = (w / torch.where(scales > 0, scales, 1.0)).round().clamp(-_LARGEST, _LARGEST)
    return codes.to(torch.int8), scales


def quantize(model: nn.Module, skip: Sequence[str] = (), keep: bool = True) -> dict[str, nn.Module]:
    """Replace every Linear and Conv2d in a model by its int8 form, in place.

    Embeddings and norms stay. A layer that sits in several places stays shared. Quantize in
    float32, then move to another dtype or device.

    Args:
        model: holds the layers; a model that is itself such a layer is not replaced.
        skip: patterns of names to leave alone, such as ``"conv_in"`` or ``"time_embedding.*"``.
        keep: False drops each layer as it is replaced, and copies what stays out of the file that
            the model was read from, which would be held in memory whole.

    Returns:
        The layers that were replaced, by name, for ``put_back``; none unless they are kept.

    Raises:
        ValueError: nothing to replace, a pattern that matches no layer, a weight that is not
            finite. Nothing is replaced then.
    """
    names = [
        name
        for name, layer in model.named_modules(remove_duplicate=False)
        if name and type(layer) in (nn.Linear, nn.Conv2d)
    ]
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"skip: {pattern!r} matches no Linear or Conv2d of the model")
    places: dict[nn.Module, list[str]] = {}
    for name in names:
        if not any(fnmatchcase(name, pattern) for pattern in skip):
            places.setdefault(model.get_submodule(name), []).append(name)
    if not places:
        raise ValueError(f"{type(model).__name__} has no Linear or Conv2d to quantize")
    for layer in places:
        _check(layer)
    kept: dict[str, nn.Module] = {}
    while places:
        layer, names = places.popitem()
        put_back(model, dict.fromkeys(names, _KINDS[type(layer)](layer)))
        if keep:
            kept |= dict.fromkeys(names, layer)
    if not keep:
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
    return kept


def put_back(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Put layers into a model by name, such as those that ``quantize`` replaced."""
    for name, layer in layers.items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, layer)


_KINDS: Mapping[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.Linear: Int8Linear,
    nn.Conv2d: Int8Conv2d,
}


def _check(layer: Any) -> None:
    """Refuse a layer that has no int8 form."""
    if not bool(layer.weight.isfinite().all()):
        raise ValueError("a weight to quantize must be finite, found nan or infinity in it")
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        raise ValueError(f"Conv2d with padding_mode={layer.padding_mode!r} cannot be quantized")


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers; what is shared counts once."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
