"""Two ways into an attention layer of a denoiser, for the length of one call.

``mixed_values`` meets the values after ``to_v`` and the heads before ``to_out``, whatever kernel
computes the attention. ``intercepted`` meets the call of ``scaled_dot_product_attention`` within
the layer: queries, keys and values as they are multiplied, after norms and rotary embedding, for
every family alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from guidance.core.layers import Layer
from guidance.core.perturb import Call


@dataclass(frozen=True)
class Attention:
    """One attention of the rows to perturb.

    Attributes:
        query: ``(R, H, N, D)``.
        key, value: ``(R, H, M, D)``, with as many heads as the query.
        output: ``softmax(query key^T scale + mask) value``, ``(R, H, N, D)``.
        image: positions of the image tokens among the queries, ``(n,)``.
        own: positions of the same tokens among the keys, ``(n,)``.
        mask: added to the logits, or True where they are kept; broadcasts to ``(R, H, N, M)``.
        scale: factor of the logits, None for ``1 / sqrt(D)``.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    image: Tensor
    own: Tensor
    mask: Tensor | None = None
    scale: float | None = None

    @property
    def joint(self) -> bool:
        """Whether there are text tokens among the keys."""
        return len(self.own) < self.key.shape[2]

    @property
    def text(self) -> Tensor:
        """Positions of the text tokens among the keys."""
        rest = torch.ones(self.key.shape[2], dtype=torch.bool, device=self.key.device)
        rest[self.own] = False
        return rest.nonzero().squeeze(1)

    def of_heads(self, heads: list[int]) -> Attention:
        """The same attention of some heads."""
        mask = self.mask
        if mask is not None and mask.shape[1] > 1:
            mask = mask[:, heads]
        parts = {
            name: getattr(self, name)[:, heads] for name in ("query", "key", "value", "output")
        }
        return replace(self, mask=mask, **parts)

    def again(self, query: Tensor | None = None, value: Tensor | None = None) -> Tensor:
        """The output with another query or value."""
        return scaled_dot_product_attention(
            self.query if query is None else query,
            self.key,
            self.value if value is None else value,
            attn_mask=self.mask,
            scale=self.scale,
        )


@contextmanager
def mixed_values(
    layer: Layer, call: Call, mix: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[None]:
    """Replace the image tokens' heads of the rows to perturb, seeing only them and the values.

    Args:
        layer: a layer that ``shows_values``.
        call: the denoiser call.
        mix: makes new heads from heads and values, both ``(R, n, H, D)``.
    """
    module: Any = layer.module
    bare = getattr(module, "to_out", None) is None
    kept: list[Tensor] = []

    def keep(_: nn.Module, args: Any, value: Tensor) -> None:
        kept[:] = [value]

    def mixed(heads: Tensor) -> Tensor:
        rows, value = call.rows_of(heads, layer.path), kept.pop()
        text = call.text_tokens if bare else 0
        start = text if layer.text_first else 0
        tokens = slice(start, start + heads.shape[1] - text)
        old = heads[rows, tokens].unflatten(2, (layer.heads, -1))
        new = value[rows, tokens].unflatten(2, (-1, old.shape[3]))
        result = heads.clone()
        result[rows, tokens] = mix(old, _spread(new, layer.heads, 2)).flatten(2)
        return result

    if bare:
        last = module.register_forward_hook(lambda _, args, heads: mixed(heads))
    else:
        last = module.to_out[0].register_forward_pre_hook(lambda _, args: mixed(args[0]))
    first = module.to_v.register_forward_hook(keep)
    try:
        yield
    finally:
        first.remove()
        last.remove()


def shows_values(layer: Layer) -> bool:
    """Whether the layer's ``to_v`` and ``to_out`` meet nothing but the attention between them."""
    module: Any = layer.module
    gated = any("gate" in name for name, _ in module.named_children())
    fused = getattr(module, "fused_projections", False)
    if gated or fused or getattr(module, "to_v", None) is None:
        return False
    if getattr(module, "to_out", None) is None:
        return type(module).__name__ == "FluxAttention"
    streams = layer.kind == "image" or getattr(module, "add_v_proj", None) is not None
    return streams and isinstance(module.to_out, nn.ModuleList | nn.Sequential)


@contextmanager
def intercepted(layer: Layer, call: Call, change: Callable[[Attention], Tensor]) -> Iterator[None]:
    """Replace the output of a layer's attention in the rows to perturb.

    Args:
        layer: the layer.
        call: the denoiser call.
        change: makes the new output ``(R, H, N, D)`` of some of the rows from their attention.

    Raises:
        ValueError: within the context, when the layer runs another attention kernel.
    """
    mode: _Interception | None = None

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal mode
        given = dict(zip(_STREAMS, args, strict=False)) | kwargs
        mode = _Interception(layer, call, change, given)
        mode.__enter__()

    def leave(*_: Any) -> None:
        nonlocal mode
        if mode is None:
            return
        left, mode = mode, None
        left.__exit__(None, None, None)
        if not left.met:
            raise ValueError(
                f"{layer.path} never called scaled_dot_product_attention, where it is perturbed; "
                "choose that kernel by pipe.transformer.set_attention_backend('native'), or by "
                "set_attn_processor(AttnProcessor2_0()) for a UNet, or use joint_mode='row' of "
                "SoftPAG, which needs no particular kernel in most families"
            )

    hooks = [
        layer.module.register_forward_pre_hook(enter, with_kwargs=True),
        layer.module.register_forward_hook(leave),
    ]
    try:
        yield
    finally:
        if mode is not None:
            mode.__exit__(None, None, None)
        for hook in hooks:
            hook.remove()


_STREAMS = ("hidden_states", "encoder_hidden_states")
"""What attention modules call the tokens of the image, or of image and text, and of the text."""


class _Interception(TorchFunctionMode):
    """Changes the first attention that is computed while it is entered."""

    def __init__(
        self,
        layer: Layer,
        call: Call,
        change: Callable[[Attention], Tensor],
        given: dict[str, Any],
    ) -> None:
        super().__init__()
        self.met = False
        self._layer, self._call, self._change, self._given = layer, call, change, given

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is scaled_dot_product_attention and not self.met:
            self.met = True
            return self._changed(output, *args, **(kwargs or {}))
        return output

    def _changed(
        self,
        output: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        rows = self._call.rows_of(query, self._layer.path)
        heads, added = query.shape[1], key.shape[2] - query.shape[2]
        if is_causal or added < 0:
            raise ValueError(
                f"{self._layer.path} is no square attention over the image tokens: found "
                f"{query.shape[2]} queries, {key.shape[2]} keys, causal={is_causal}"
            )
        mask = attn_mask
        if mask is not None:
            mask = mask[(None,) * (4 - mask.ndim)].expand(len(query), -1, -1, -1)
        result = output.clone()
        for part, image in self._image(query.shape[2], added, rows, mask):
            result[part] = self._change(
                Attention(
                    query[part],
                    _spread(key[part], heads, 1),
                    _spread(value[part], heads, 1),
                    output[part],
                    image.to(query.device),
                    image.to(query.device) + added,
                    None if mask is None else mask[part],
                    scale,
                )
            )
        return result

    def _image(
        self, length: int, added: int, rows: slice, mask: Tensor | None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Rows, and where their image tokens are among the queries."""
        layer, call = self._layer, self._call
        image, text = (self._given.get(name) for name in _STREAMS)
        # Keys that no query belongs to are text in front of the image.
        if layer.kind == "image" or added:
            yield rows, torch.arange(length)
            return
        count, ends = length - call.text_tokens, None
        if isinstance(image, Tensor) and isinstance(text, Tensor) and text is not image:
            count = image.shape[1]
        elif layer.patch and call.sides is not None:
            count = prod(ceil(side / layer.patch) for side in call.sides)
            ends = _last_tokens(mask)
        if not layer.text_first:
            yield rows, torch.arange(count)
        elif ends is None:
            yield rows, torch.arange(length - count, length)
        else:
            for row in range(rows.start, rows.stop):
                yield slice(row, row + 1), torch.arange(ends[row] - count, ends[row])


def _last_tokens(mask: Tensor | None) -> list[int] | None:
    """How many tokens of each row come before its padding, None where no mask tells."""
    if mask is None or mask.dtype != torch.bool or mask.shape[1:3] != (1, 1):
        return None
    places = torch.arange(1, mask.shape[3] + 1, device=mask.device)
    return (mask[:, 0, 0] * places).amax(1).tolist()


def _spread(tensor: Tensor, heads: int, axis: int) -> Tensor:
    """The tensor with every head repeated for the query heads that share it."""
    groups = heads // tensor.shape[axis]
    return tensor if groups == 1 else tensor.repeat_interleave(groups, axis)
