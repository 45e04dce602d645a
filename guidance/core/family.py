"""How each denoiser is called: a table of data, and the functions that read it.

Rows are named, never guessed: an argument that is not listed under ``rows`` is passed on as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor

from guidance.core.prediction import COND, UNCOND, Branch


@dataclass(frozen=True)
class Family:
    """Call layout of one denoiser class.

    Attributes:
        model: name of the class; subclasses match too.
        sample, timestep: arguments that hold the noisy input and its time.
        rows: arguments with one row per image and branch: tensors, or lists or dicts of tensors;
            ``"outer.inner"`` names one entry of a dict.
        order: branches in the order in which a pipeline stacks their rows.
        channels: axis of the channels; channels that input and output do not share (inpainting
            masks, learned variances) are not guided.
        refused: arguments of the denoiser or the pipeline that cannot be used in a guide block,
            each with the reason.
    """

    model: str
    sample: str
    rows: tuple[str, ...]
    order: tuple[Branch, ...] = (UNCOND, COND)
    channels: int = 1
    timestep: str = "timestep"
    refused: Mapping[str, str] = field(default_factory=dict)


_SKIP_LAYERS = "it calls the denoiser a second time per step"

_FAMILIES: dict[str, Family] = {
    family.model: family
    for family in (
        Family(
            model="UNet2DConditionModel",
            sample="sample",
            rows=(
                "sample",
                "timestep",
                "encoder_hidden_states",
                "class_labels",
                "timestep_cond",
                "attention_mask",
                "encoder_attention_mask",
                "added_cond_kwargs",
                "cross_attention_kwargs.gligen",
                "down_block_additional_residuals",
                "mid_block_additional_residual",
                "down_intrablock_additional_residuals",
            ),
        ),
        Family(
            model="SD3Transformer2DModel",
            sample="hidden_states",
            rows=(
                "hidden_states",
                "timestep",
                "encoder_hidden_states",
                "pooled_projections",
                "block_controlnet_hidden_states",
                "joint_attention_kwargs.ip_adapter_image_embeds",
            ),
            refused={"skip_guidance_layers": _SKIP_LAYERS, "skip_layers": _SKIP_LAYERS},
        ),
        Family(
            model="DiTTransformer2DModel",
            sample="hidden_states",
            rows=("hidden_states", "timestep", "class_labels"),
            order=(COND, UNCOND),
        ),
    )
}


def register_family(family: Family) -> None:
    """Teach ``guide`` the call layout of another denoiser class, or replace a known one.

    Raises:
        ValueError: the sample is not among the rows, or the order lacks the cond branch.
    """
    if family.sample not in family.rows or COND not in family.order:
        raise ValueError(
            f"family {family.model}: rows must hold {family.sample!r} and order must hold "
            f"{COND!r}, found rows={family.rows}, order={family.order}"
        )
    _FAMILIES[family.model] = family


def family_of(denoiser: object) -> Family | None:
    """The table row of a denoiser, by the nearest class in its inheritance."""
    names = (cls.__name__ for cls in type(denoiser).__mro__)
    return next((_FAMILIES[name] for name in names if name in _FAMILIES), None)


def known_families() -> tuple[str, ...]:
    """Names of the denoiser classes that ``guide`` knows."""
    return tuple(_FAMILIES)


@cache
def _parameters(cls: type) -> tuple[str, ...]:
    return tuple(inspect.signature(cls.forward).parameters)[1:]  # type: ignore[attr-defined]


class Arguments:
    """Arguments of one denoiser call, by name, that remember which of them were positional."""

    def __init__(
        self, family: Family, cls: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self.family = family
        self.original = args, dict(kwargs)
        self._positional = _parameters(cls)[: len(args)]
        self.values = dict(zip(self._positional, args, strict=True)) | dict(kwargs)

    @property
    def sample(self) -> Tensor:
        return self.values[self.family.sample]

    @property
    def timestep(self) -> Tensor | float:
        return self.values[self.family.timestep]

    def select(self, branch: Branch) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments that hold only the rows of this branch."""
        total = len(self.sample)
        size = total // len(self.family.order)
        start = self.family.order.index(branch) * size
        rows = slice(start, start + size)
        values = dict(self.values)
        for path in self.family.rows:
            name, _, inner = path.partition(".")
            value = values.get(name)
            if inner and isinstance(value, Mapping) and inner in value:
                values[name] = {**value, inner: _take(value[inner], rows, total, path)}
            elif not inner:
                values[name] = _take(value, rows, total, path)
        args = tuple(values[name] for name in self._positional)
        rest = {name: values[name] for name in self.values if name not in self._positional}
        return args, rest


def _take(value: Any, rows: slice, total: int, name: str) -> Any:
    """The rows of every tensor in a value; tensors that broadcast over rows are kept."""
    if isinstance(value, Tensor):
        if value.ndim == 0 or len(value) == 1:
            return value
        if len(value) != total:
            raise ValueError(
                f"{name} must have {total} rows like the sample, found shape {tuple(value.shape)}"
            )
        return value[rows]
    if isinstance(value, Mapping):
        return {key: _take(item, rows, total, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_take(item, rows, total, name) for item in value)
    return value
