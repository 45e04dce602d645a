"""Perturbed-attention guidance, whole (PAG) and softened head by head (SoftPAG).

"Fine-Grained Perturbation Guidance via Attention Head Selection", Donghoon Ahn et al., 2025,
arXiv 2506.10978; "Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance", Donghoon
Ahn et al., 2024, arXiv 2403.17377.

    A' = (1 - u) A + u I          of chosen heads' self-attention maps A, softmax included
    guided = cond + s (cond - perturbed)

Works in the model's own space; being affine, it is the same update in every space. No map is
formed: a head's new output is a mix of its output and its values, ``(1 - u) A V + u V``.

Which part of the map moves where text tokens share it ("joint"):

    row         rows of image tokens, text columns included
    row_all     all rows
    masked      rows of image tokens, towards the softmax over the token itself and the text
    block       image rows and columns, towards 1; rows no longer sum to 1
    block_mass  image rows and columns, towards the row's image mass

Deviations: the authors' code for joint attention was not found; ``masked`` is the default there,
because at strength 1 it is what diffusers' Stable Diffusion 3 pipeline with PAG does. PAG's own
code counts its scale from 1; ``s`` is 0 for no effect, as in diffusers' pipelines.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from guidance.core.attention import Attention, intercepted, mixed_values, shows_values
from guidance.core.family import Family
from guidance.core.heads import Selectors, check_selectors, resolve
from guidance.core.layers import Layer
from guidance.core.perturb import Call, Perturbation, PerturbedDirection
from guidance.core.prediction import wide
from guidance.core.schedule import check_number
from guidance.head_set import HeadSet

JOINT_MODES = ("row", "row_all", "masked", "block", "block_mass")

_LOGITS = 2**22
"""Text logits in memory at once."""


def perturb(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    strength: Tensor,
    image_tokens: Tensor | None = None,
    joint_mode: str = "row",
) -> Tensor:
    """Outputs of attention heads whose maps are moved towards the identity.

    Args:
        query: ``(B, H, N, D)``.
        key, value: the same, or with fewer heads, each shared by as many query heads.
        strength: ``u`` of each head, ``(H,)``, from 0 (unchanged) to 1.
        image_tokens: True for image tokens, ``(N,)``; None if all are.
        joint_mode: one of ``JOINT_MODES``; without text tokens they coincide.

    Returns:
        ``(B, H, N, D)``.

    Raises:
        ValueError: an unknown mode, or a strength outside [0, 1] or not one for each head.
    """
    _check_mode(joint_mode)
    if strength.shape != query.shape[1:2] or not ((strength >= 0) & (strength <= 1)).all():
        raise ValueError(
            f"strength must hold {query.shape[1]} numbers from 0 to 1, found {strength.tolist()}"
        )
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
    image = torch.arange(query.shape[2], device=query.device)
    image = image if image_tokens is None else image[image_tokens]
    output = scaled_dot_product_attention(query, key, value)
    return soften(Attention(query, key, value, output, image, image), strength, joint_mode)


def soften(attention: Attention, strength: Tensor, joint_mode: str) -> Tensor:
    """The output ``(R, H, N, D)`` of an attention at a strength ``(H,)``; see ``perturb``."""
    u = strength.to(attention.output).view(-1, 1, 1)
    value, image = attention.value[:, :, attention.own], attention.image
    if joint_mode == "row_all" and attention.query.shape[2] == attention.key.shape[2]:
        return torch.lerp(attention.output, attention.value, u)
    if not attention.joint or joint_mode in ("row", "row_all"):
        moved = torch.lerp(attention.output[:, :, image], value, u)
    elif joint_mode == "masked":
        moved = torch.lerp(attention.output[:, :, image], _self_and_text(attention), u)
    else:
        ours = torch.zeros_like(attention.value)
        ours[:, :, attention.own] = value
        parts = attention.again(value=ours)[:, :, image]
        if joint_mode == "block_mass":
            ours[:, :, attention.own] = 1
            value = value * attention.again(value=ours)[:, :, image]
        moved = attention.output[:, :, image] + u * (value - parts)
    result = attention.output.clone()
    result[:, :, image] = moved
    return result


def _self_and_text(attention: Attention) -> Tensor:
    """Attention of each image token to itself and the text alone, ``(R, H, n, D)``."""
    text = attention.text
    size = max(1, len(attention.query) * len(attention.image) * len(text))
    count, step = attention.query.shape[1], max(1, _LOGITS // size)
    parts = (list(range(count))[start : start + step] for start in range(0, count, step))
    return torch.cat([_few_heads(attention.of_heads(part), text) for part in parts], 1)


def _few_heads(attention: Attention, text: Tensor) -> Tensor:
    image, own = attention.image, attention.own
    query, key, value = (wide(part) for part in (attention.query, attention.key, attention.value))
    query = query[:, :, image] * (attention.scale or query.shape[3] ** -0.5)
    logits = query @ key[:, :, text].mT
    if attention.mask is not None:
        logits = logits + _bias(attention.mask, image, text)
    total = logits.logsumexp(3, keepdim=True)
    among_text = (logits - total.clamp_min(torch.finfo(total.dtype).min)).exp() @ value[:, :, text]
    itself = (query * key[:, :, own]).sum(3, keepdim=True)
    return among_text.lerp(value[:, :, own], (itself - total).sigmoid()).to(attention.value)


def _bias(mask: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """What a mask adds to the logits of some queries and keys."""
    part = mask[:, :, queries] if mask.shape[2] > 1 else mask
    part = part[..., keys]
    if part.dtype == torch.bool:
        return torch.zeros_like(part, dtype=torch.float32).masked_fill(~part, float("-inf"))
    return wide(part)


@dataclass(frozen=True)
class Softened(Perturbation):
    """Chosen heads attend partly to themselves; see ``SoftPAG`` for the settings."""

    heads: Selectors = "auto"
    strength: float | tuple[float, ...] = 1.0
    joint_mode: str | None = None

    def check(self, model: nn.Module, family: Family) -> tuple[str, ...]:
        return tuple(
            name
            for layer, strengths in self._strengths(model).items()
            for name in _names(layer, [head for head, u in strengths.items() if u])
        )

    @contextmanager
    def applied(self, model: nn.Module, call: Call) -> Iterator[None]:
        with ExitStack() as stack:
            for layer, strengths in self._strengths(model).items():
                chosen = [head for head, u in strengths.items() if u]
                u = torch.tensor([strengths[head] for head in chosen], dtype=torch.float64)
                if chosen:
                    stack.enter_context(self._softened(layer, chosen, u, call))
            yield

    def _softened(self, layer: Layer, heads: list[int], u: Tensor, call: Call) -> Any:
        joint_mode = self.joint_mode or ("masked" if layer.kind == "joint" else "row")

        def soft(attention: Attention) -> Tensor:
            output = attention.output.clone()
            output[:, heads] = soften(attention.of_heads(heads), u, joint_mode)
            return output

        def mix(old: Tensor, value: Tensor) -> Tensor:
            new = old.clone()
            weight = u.to(old).view(-1, 1)
            new[:, :, heads] = old[:, :, heads].lerp(value[:, :, heads], weight)
            return new

        if shows_values(layer) and (layer.kind == "image" or joint_mode == "row"):
            return mixed_values(layer, call, mix)
        return intercepted(layer, call, soft)

    def _strengths(self, model: nn.Module) -> dict[Layer, dict[int, float]]:
        """Strength of every chosen head of every chosen layer."""
        selections = resolve(model, self.heads)
        count = sum(len(selection.heads) for selection in selections)
        if isinstance(self.strength, tuple) and len(self.strength) != count:
            raise ValueError(
                f"strength must be one number or one for each of the {count} heads that "
                f"{self.heads!r} selects, found {len(self.strength)}"
            )
        values = iter(
            self.strength if isinstance(self.strength, tuple) else (self.strength,) * count
        )
        strengths: dict[Layer, dict[int, float]] = {}
        for selection in selections:
            part = {head: next(values) for head in selection.heads}
            strengths.setdefault(selection.layer, {}).update(part)
        return strengths


@dataclass(frozen=True, repr=False)
class SoftPAG(PerturbedDirection):
    """Pushes away from the prediction of a denoiser with weakened attention heads.

    Needs no prompt and no unconditional rows: it works alone, and in a sum with CFG.

    Args:
        scale: ``s``, finite number from 0 up, schedule, or function of the fraction of the run.
            Neutral at 0, where nothing is evaluated; 3 with CFG and 5 without are common.
        heads: a layer ``"mid"``, a head ``"mid_block.attentions.0.transformer_blocks.0.attn1:3"``
            or ``(layer, 3)``, or several of them; ``"auto"`` for whole layers by family. See
            ``guidance.core.heads`` for patterns, ``guidance.inspect(pipe)`` for the names. A
            ``HeadSet`` stands for its heads, on a model with the layers of its own.
        strength: ``u``, from 0 (unchanged) to 1 (identity); one number, or one for each selected
            head in the order of selection. Neutral if all are 0.
        joint_mode: one of ``JOINT_MODES``; None for ``"masked"`` where text tokens share the map.

    Raises:
        TypeError, ValueError: a setting is not of its kind or range; on entering a guide block,
            heads that the model does not have.
    """

    heads: Selectors | HeadSet = "auto"
    strength: float | tuple[float, ...] = 1.0
    joint_mode: str | None = None
    _found: HeadSet | None = field(default=None, init=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.heads, HeadSet):
            object.__setattr__(self, "_found", self.heads)
            object.__setattr__(self, "heads", self.heads.heads)
        object.__setattr__(self, "heads", check_selectors("SoftPAG", "heads", self.heads))
        object.__setattr__(self, "strength", _checked_strength(self.strength))
        if self.joint_mode is not None:
            _check_mode(self.joint_mode)

    @property
    def perturbation(self) -> Softened | None:
        strengths = self.strength if isinstance(self.strength, tuple) else (self.strength,)
        assert not isinstance(self.heads, HeadSet)
        return Softened(self.heads, self.strength, self.joint_mode) if any(strengths) else None

    def check(self, model: nn.Module, family: Family) -> tuple[str, ...]:
        if self._found is not None:
            self._found.check(model)
        return super().check(model, family)


@dataclass(frozen=True, repr=False)
class PAG(PerturbedDirection):
    """Pushes away from the prediction of a denoiser whose self-attention is the identity.

    Args:
        scale: ``s``; see ``SoftPAG``.
        layers: selectors of layers as for ``SoftPAG``; ``"auto"`` for a default by family.

    Raises:
        TypeError, ValueError: as ``SoftPAG``.
    """

    layers: Selectors = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = check_selectors("PAG", "layers", self.layers, numbered=False)
        object.__setattr__(self, "layers", layers)

    @property
    def perturbation(self) -> Softened:
        return Softened(self.layers)


def _names(layer: Layer, heads: list[int]) -> list[str]:
    """A layer by its name, or some of its heads by theirs."""
    whole = len(heads) == layer.heads
    return [layer.path] if whole else [f"{layer.path}:{head}" for head in heads]


def _checked_strength(value: Any) -> float | tuple[float, ...]:
    if isinstance(value, list | tuple):
        return tuple(check_number("SoftPAG", "strength", item, 0, 1) for item in value)
    return check_number("SoftPAG", "strength", value, 0, 1)


def _check_mode(joint_mode: object) -> None:
    if joint_mode not in JOINT_MODES:
        raise ValueError(
            f"joint_mode must be one of {', '.join(JOINT_MODES)}, found {joint_mode!r}"
        )
