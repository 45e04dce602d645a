"""How layers and heads are selected, and which are by default.

A layer goes by the dotted path of its module, a head by its layer and number. Selectors:

    "transformer_blocks.7.attn"     a layer
    "transformer_blocks.7"          every self-attention layer under a module
    "transformer_blocks.*.attn"     a shell-style pattern; wildcards never cross a dot
    "transformer_blocks.7.attn:3"   a head
    ("transformer_blocks.7.attn", 3)
    "mid"                           the middle block of a UNet

Names match whole: ``transformer_blocks.1`` is not ``transformer_blocks.10``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from guidance.core.layers import REASONS, SELF, Layer, layers_of

Selector = str | tuple[str, int]
Selectors = Selector | tuple[Selector, ...]

_ABBREVIATIONS = {"mid": "mid_block"}

_SOFTENED = {"SD3Transformer2DModel": 13, "PixArtTransformer2DModel": 14}
"""Blocks that perturbed-attention guidance is used with: huggingface/diffusers 8861 and 8921."""

_SKIPPED = {"SD3Transformer2DModel": (7, 8, 9)}
"""Layers that Stability AI's configuration of SD3.5 medium skips."""


@dataclass(frozen=True)
class Selection:
    """Heads of one layer, in the order in which they were selected."""

    layer: Layer
    heads: tuple[int, ...]


def check_selectors(owner: str, name: str, value: Any, numbered: bool = True) -> Selectors:
    """The selectors with lists turned into tuples.

    Args:
        owner, name: the setting, for the error.
        value: a selector or several of them.
        numbered: whether selectors may name single heads.

    Raises:
        TypeError: something is no selector.
        ValueError: no selector, or a head that is no number or not wanted.
    """
    if _is_pair(value):
        value = tuple(value)
    elif isinstance(value, list | tuple):
        value = tuple(tuple(item) if _is_pair(item) else item for item in value)
    parsed = _parsed(value)
    if not parsed:
        raise ValueError(f"{owner}: {name} must select something, found {value!r}; write 'auto'")
    for path, head in parsed:
        if not isinstance(path, str) or isinstance(head, bool):
            raise TypeError(
                f"{owner}: {name} must be a layer such as 'mid', a head such as 'mid:3' or "
                f"('mid', 3), or a tuple of those, found {value!r}"
            )
        if not path or (head is not None and (not isinstance(head, int) or head < 0)):
            raise ValueError(f"{owner}: {name} has an impossible layer or head in {value!r}")
        if head is not None and not numbered:
            raise ValueError(
                f"{owner}: {name} takes whole layers, found head {head!r} of {path!r}; leave the "
                "number out"
            )
    return value


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[1], int)


def _parsed(selectors: Any) -> list[tuple[Any, Any]]:
    """Path and head of every selector; a head that is no number stays text."""
    if _is_pair(selectors) or not isinstance(selectors, tuple):
        selectors = (selectors,)
    pairs: list[tuple[Any, Any]] = []
    for item in selectors:
        if isinstance(item, str) and ":" in item:
            path, _, head = item.rpartition(":")
            pairs.append((path, int(head) if head.isdecimal() else head))
        else:
            pairs.append(item if _is_pair(item) else (item, None))
    return pairs


def resolve(model: nn.Module, selectors: Selectors) -> tuple[Selection, ...]:
    """The heads that selectors name, in the order written; within a pattern, in model order.

    Raises:
        ValueError: a selector hits no self-attention, a head does not exist, or a head is selected
            twice.
    """
    taken: set[tuple[str, int]] = set()
    found = []
    for pattern, head in _parsed(default_layers(model) if selectors == "auto" else selectors):
        for layer in _hit(model, pattern, SELF):
            heads = tuple(range(layer.heads)) if head is None else (head,)
            if heads[-1] >= layer.heads:
                raise ValueError(f"{layer.path} has heads 0 to {layer.heads - 1}, found {head}")
            names = {(layer.path, number) for number in heads}
            if names & taken:
                raise ValueError(
                    f"{pattern!r} selects head {min(names & taken)[1]} of {layer.path} a second "
                    "time; select every head once"
                )
            taken |= names
            found.append(Selection(layer, heads))
    return tuple(found)


def resolve_layers(model: nn.Module, selectors: Selectors) -> tuple[Layer, ...]:
    """The self-attention layers that selectors name, each once; raises as ``resolve``."""
    chosen = default_layers(model) if selectors == "auto" else selectors
    hit = [layer for pattern, _ in _parsed(chosen) for layer in _hit(model, pattern, SELF)]
    return tuple(dict.fromkeys(hit))


def resolve_blocks(model: nn.Module, selectors: Selectors) -> dict[str, nn.Module]:
    """The blocks whose self-attention selectors name, by path; raises as ``resolve``."""
    chosen = default_blocks(model) if selectors == "auto" else selectors
    found: dict[str, nn.Module] = {}
    for pattern, _ in _parsed(chosen):
        for layer in _hit(model, pattern, (*SELF, "linear")):
            block = model.get_submodule(layer.block)
            alone = isinstance(block, nn.ModuleList | nn.ModuleDict | nn.Sequential)
            found[layer.path if alone else layer.block] = layer.module if alone else block
    return found


def _hit(model: nn.Module, pattern: str, kinds: Iterable[str]) -> list[Layer]:
    layers = layers_of(model)
    hit = [layer for layer in layers if _matches(pattern, layer.path)]
    wanted = [layer for layer in hit if layer.kind in kinds]
    if wanted:
        return wanted
    if hit:
        raise ValueError(f"{hit[0].path} is {REASONS[hit[0].kind]}; {_near(model, pattern, kinds)}")
    raise ValueError(
        f"{type(model).__name__} has no attention layer {pattern!r}; {_near(model, pattern, kinds)}"
    )


def _matches(pattern: str, path: str) -> bool:
    wanted, names = _ABBREVIATIONS.get(pattern, pattern).split("."), path.split(".")
    pairs = zip(wanted, names, strict=False)
    return len(wanted) <= len(names) and all(fnmatchcase(name, want) for want, name in pairs)


def _near(model: nn.Module, pattern: str, kinds: Iterable[str]) -> str:
    paths = [layer.path for layer in layers_of(model) if layer.kind in kinds]
    if not paths:
        return f"{type(model).__name__} has no self-attention that can be perturbed"
    near = difflib.get_close_matches(pattern, paths, n=3, cutoff=0) or paths[:3]
    return f"nearest of {len(paths)} self-attention layers: {', '.join(near)}"


def default_layers(model: nn.Module) -> tuple[str, ...]:
    """Selectors of the layers that attention is perturbed in by default.

    The middle block of a UNet ("Self-Rectifying Diffusion Sampling with Perturbed-Attention
    Guidance", arXiv 2403.17377), block 13 of SD3 and 14 of PixArt. For others it is our own choice
    to take the block in the middle of the depth, which those are too; FLUX counts its double blocks
    before its single ones.
    """
    return _default(model, SELF, lambda name, count: (_SOFTENED.get(name, count // 2),))


def default_blocks(model: nn.Module) -> tuple[str, ...]:
    """Selectors of the blocks that are skipped by default: 7, 8 and 9 of SD3, else as above."""
    return _default(
        model,
        (*SELF, "linear"),
        lambda name, count: _SKIPPED.get(name) or (_SOFTENED.get(name, count // 2),),
    )


def _default(
    model: nn.Module, kinds: Iterable[str], choose: Callable[[str, int], tuple[int, ...]]
) -> tuple[str, ...]:
    layers = [layer for layer in layers_of(model) if layer.kind in kinds]
    if not layers:
        refused = {layer.kind for layer in layers_of(model)}
        reason = "; ".join(f"some is {REASONS[kind]}" for kind in sorted(refused))
        raise ValueError(
            f"{type(model).__name__} has no self-attention that can be perturbed"
            + (f": {reason}" if reason else "")
        )
    if any(layer.path.startswith("mid_block.") for layer in layers):
        return ("mid_block",)
    blocks = list(dict.fromkeys(layer.block for layer in layers if "refiner" not in layer.path))
    chosen = choose(type(model).__name__, len(blocks))
    return tuple(dict.fromkeys(blocks[min(index, len(blocks) - 1)] for index in chosen))
