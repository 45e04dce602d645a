"""Edits of the key and value projections of every cross-attention, by hooks that come off again.

A projection sees ``x - P x`` in place of the encodings x, and its output gets the gated outputs of
the concepts, see ``personalize.rank_one``. P and the gates are the same in all layers, and made
once for each tensor of encodings. No module is replaced, so that names, other adapters and any
attention processor stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from personalize.rank_one import Concepts

Present = Callable[[Tensor], Tensor]
"""Of encodings ``(B, tokens, d_in)``, bool ``(B, J)``: which concepts act on which row."""

Counterparts = Callable[[Tensor], Tensor]
"""Of encodings ``(B, tokens, d_in)``, those of the same prompts with other words in them."""


@dataclass(frozen=True)
class Edit:
    """Concepts that act on a denoiser.

    Attributes:
        i_stars, weighted: target inputs and ``C^-1`` times them, ``(J, d_in)``.
        outputs: target outputs ``(J, d_out)`` by the name of their projection.
        beta, tau: of the gates, ``(J,)``.
        present: which concepts act on which row; None where all act on all.
        counterparts: what keys are made of in place of the encodings; None for the same.
        on_keys: bool ``(J,)``, which concepts act on keys; None for all.
    """

    i_stars: Tensor
    weighted: Tensor
    outputs: Mapping[str, Tensor]
    beta: Tensor
    tau: Tensor
    present: Present | None = None
    counterparts: Counterparts | None = None
    on_keys: Tensor | None = None


def cross_projections(denoiser: Any) -> dict[str, Any]:
    """The projections ``to_k`` and ``to_v`` of every cross-attention of a UNet, by name.

    Raises:
        ValueError: no cross-attention, or one with fused projections.
    """
    found: dict[str, Any] = {}
    for name, module in denoiser.named_modules():
        if not (name.endswith("attn2") and hasattr(module, "to_k")):
            continue
        if getattr(module, "fused_projections", False):
            raise ValueError(
                f"{name} has fused projections, which cannot be edited one by one; call "
                "pipe.unfuse_qkv_projections() first"
            )
        found |= {f"{name}.to_k": module.to_k, f"{name}.to_v": module.to_v}
    if not found:
        raise ValueError(
            f"{type(denoiser).__name__} has no cross-attention whose keys and values could be "
            "edited; expected the UNet of Stable Diffusion 1, 2 or XL"
        )
    return found


@torch.no_grad()
def projected(denoiser: Any, encoding: Tensor) -> dict[str, Tensor]:
    """What each of these makes of an encoding ``(d_in,)``, in float32 and without its bias."""
    outputs = {}
    for name, layer in cross_projections(denoiser).items():
        weight, bias = next(layer.parameters()), getattr(layer, "bias", None)
        made = layer(encoding[None].to(weight))[0].float()
        outputs[name] = made if bias is None else made - bias.float()
    return outputs


class Editing:
    """An edit at work on a denoiser, until ``stop``.

    Raises:
        ValueError: see ``cross_projections``; nothing is changed then.
    """

    def __init__(self, denoiser: Any, edit: Edit) -> None:
        self.edit = edit
        self._prepared: dict[tuple[Any, ...], Concepts] = {}
        self._last: dict[bool, tuple[Tensor, Tensor, Tensor]] = {}
        self._handles = []
        for name, layer in cross_projections(denoiser).items():
            if name in edit.outputs:
                keys = name.endswith("to_k") and edit.counterparts is not None
                self._handles += [
                    layer.register_forward_pre_hook(self._before(keys)),
                    layer.register_forward_hook(self._after(name, keys)),
                ]

    def stop(self) -> None:
        """Take the edit off."""
        for handle in self._handles:
            handle.remove()

    def gates(self, x: Tensor) -> Tensor:
        """Gates of encodings ``(B, tokens, d_in)``, ``(B, tokens, J)``."""
        return self._split(x, False)[1]

    def _before(self, keys: bool) -> Callable[..., tuple[Any, ...]]:
        def hook(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x, *others = args
            return (self._split(x, keys)[0].to(x.dtype), *others)

        return hook

    def _after(self, name: str, keys: bool) -> Callable[..., Tensor]:
        def hook(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            gates = self._last[keys][2]
            outputs = self.edit.outputs[name].to(gates)
            return output + (gates @ outputs).to(output.dtype)

        return hook

    def _split(self, x: Tensor, keys: bool) -> tuple[Tensor, Tensor]:
        """What is left of encodings, or of their counterparts, and the gates ``(B, tokens, J)``."""
        if keys not in self._last or self._last[keys][0] is not x:
            self._last[keys] = (x, *self._parts(x, keys))
        return self._last[keys][1], self._last[keys][2]

    def _parts(self, x: Tensor, keys: bool) -> tuple[Tensor, Tensor]:
        edit = self.edit
        present = None if edit.present is None else edit.present(x)
        if keys:
            assert edit.counterparts is not None
            assert present is not None and edit.on_keys is not None
            x, present = edit.counterparts(x), present & edit.on_keys
        if present is None or bool(present.all()):
            everyone = tuple(range(len(edit.i_stars)))
            return self._kept_and_gates(x, everyone)
        kept, gates = x.clone(), []
        for row, acting in enumerate(present.tolist()):
            chosen = tuple(j for j, acts in enumerate(acting) if acts)
            full = torch.zeros(x.shape[1], len(acting), device=x.device)
            if chosen:
                left, own = self._kept_and_gates(x[row], chosen)
                kept[row] = left.to(x.dtype)
                full[:, list(chosen)] = own.float()
            gates.append(full)
        return kept, torch.stack(gates)

    def _kept_and_gates(self, x: Tensor, chosen: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        edit, picked = self.edit, list(chosen)
        key = (chosen, x.device)
        if key not in self._prepared:
            i, weighted = (rows.to(x.device)[picked] for rows in (edit.i_stars, edit.weighted))
            self._prepared[key] = Concepts.of(i, weighted)
        concepts = self._prepared[key]
        beta, tau = (numbers.to(x.device)[picked] for numbers in (edit.beta, edit.tau))
        return concepts.remove(x), concepts.gates(x, beta, tau)
