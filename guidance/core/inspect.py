"""``inspect``: what a pipeline's denoiser offers to the rules that name its layers and heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from guidance.core.denoiser import network
from guidance.core.family import Family, family_of
from guidance.core.heads import resolve_blocks, resolve_layers
from guidance.core.layers import layers_of

_ATTRIBUTES = ("transformer", "unet", "prior", "decoder")


@dataclass(frozen=True)
class ListedLayer:
    """An attention layer: its name, number of heads, and kind as in ``guidance.core.layers``."""

    path: str
    heads: int
    kind: str


@dataclass(frozen=True)
class Inspection:
    """Facts about a denoiser; print it, or take ``to_dict``.

    Attributes:
        pipeline: class name of the pipeline, None for a bare denoiser.
        denoiser: class name of the denoiser.
        known: whether ``guide`` knows how it is called.
        calls: how the pipeline calls it at every step, empty if not known.
        tokens: order of the tokens in self-attention.
        layers: its attention layers; ``image`` and ``joint`` ones can be selected.
        softened: layers that SoftPAG, PAG and SEG perturb by default.
        skipped: blocks that SkipLayers skips by default.
    """

    pipeline: str | None
    denoiser: str
    known: bool
    calls: str
    tokens: tuple[str, ...]
    layers: tuple[ListedLayer, ...]
    softened: tuple[str, ...]
    skipped: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON types."""
        facts = asdict(self)
        return {key: list(value) if type(value) is tuple else value for key, value in facts.items()}

    def __str__(self) -> str:
        width = max((len(layer.path) for layer in self.layers), default=0)
        lines = [
            f"{self.denoiser}{f' of {self.pipeline}' if self.pipeline else ''}"
            f"{'' if self.known else ', which guide does not know'}",
            *([f"called as: {self.calls}"] if self.calls else []),
            f"tokens in self-attention: {', '.join(self.tokens)}",
            f"SoftPAG, PAG and SEG by default: {', '.join(self.softened) or 'none'}",
            f"SkipLayers by default: {', '.join(self.skipped) or 'none'}",
            f"{'layer':<{width}}  heads  kind",
            *(f"{each.path:<{width}}  {each.heads:>5}  {each.kind}" for each in self.layers),
        ]
        return "\n".join(lines)


def inspect(pipe_or_denoiser: Any) -> Inspection:
    """List the attention layers of a pipeline's denoiser, its token order, and the defaults.

    Args:
        pipe_or_denoiser: diffusers pipeline, or its denoiser; it need not be one that ``guide``
            knows. Of two denoisers in turn, the first is listed.

    Raises:
        TypeError: it is no pipeline and no denoiser.
    """
    pipe = None if isinstance(pipe_or_denoiser, nn.Module) else pipe_or_denoiser
    candidates = [pipe_or_denoiser if pipe is None else getattr(pipe, n, None) for n in _ATTRIBUTES]
    model = next((network(item) for item in candidates if item is not None), None)
    if model is None:
        raise TypeError(
            f"expected a diffusers pipeline or denoiser, found {type(pipe_or_denoiser).__name__}"
        )
    family = family_of(model, pipe)
    return Inspection(
        pipeline=None if pipe is None else type(pipe).__name__,
        denoiser=type(model).__name__,
        known=family is not None,
        calls="" if family is None else _calls(family),
        tokens=("image",) if family is None else family.tokens,
        layers=tuple(ListedLayer(each.path, each.heads, each.kind) for each in layers_of(model)),
        softened=tuple(each.path for each in _defaults(resolve_layers, model)),
        skipped=tuple(_defaults(resolve_blocks, model)),
    )


def _calls(family: Family) -> str:
    if family.separate:
        return "one call for each branch, cond first"
    if len(family.order) == 1:
        return "one call with the cond rows only"
    return f"one call with rows {', '.join(map(str, family.order))}"


def _defaults(resolve: Callable[[nn.Module, str], Any], model: nn.Module) -> Any:
    """What ``auto`` selects, nothing where the model has nothing to select."""
    try:
        return resolve(model, "auto")
    except ValueError:
        return ()
