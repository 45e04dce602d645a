"""Images made with some heads softened, and what an objective says of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guidance.core.guide import guide
from guidance.core.rule import Rule
from guidance.head_set import Heads
from guidance.soft_pag import SoftPAG

Objective = Callable[[list[Any], list[Any]], Any]
"""Scores (N,) of N images for their prompts, larger is better: a tensor, an array or numbers."""


@dataclass(frozen=True)
class Trial:
    """What the images of all sets of heads have in common.

    Attributes:
        pipe: diffusers pipeline.
        objective: see ``Objective``.
        pairs: prompt and seed of each image.
        softened: the rule, whose heads are those of the set.
        guidance: rule beside it.
        call: further arguments of the pipeline's call.
        batch_size: images made at once.
    """

    pipe: Any
    objective: Objective
    pairs: tuple[tuple[Any, int], ...]
    softened: Callable[..., SoftPAG]
    guidance: Rule | None
    call: Mapping[str, Any]
    batch_size: int

    def scores(self, heads: Heads) -> list[float]:
        """Score of each image of a set, in the order of the pairs.

        Raises:
            ValueError: the pipeline makes no images, or the objective gives no finite number for
                each of them.
        """
        rules = [self.guidance] if self.guidance else []
        rules += [self.softened(heads=heads)] if heads else []
        images: list[Any] = []
        with guide(self.pipe, functools.reduce(Rule.__add__, rules)) if rules else nullcontext():
            for start in range(0, len(self.pairs), self.batch_size):
                images += self._images(self.pairs[start : start + self.batch_size])
        found = self.objective(images, [prompt for prompt, _ in self.pairs])
        return self._checked(torch.as_tensor(found, dtype=torch.float64), heads)

    def _images(self, batch: Sequence[tuple[Any, int]]) -> list[Any]:
        call = dict(self.call)
        if isinstance(call.get("negative_prompt"), str):
            call["negative_prompt"] = [call["negative_prompt"]] * len(batch)
        result = self.pipe(
            [prompt for prompt, _ in batch],
            generator=[torch.Generator().manual_seed(seed) for _, seed in batch],
            **call,
        )
        if getattr(result, "images", None) is None:
            raise ValueError(f"{type(self.pipe).__name__} makes no images, which hunt scores")
        return list(result.images)

    def _checked(self, found: Tensor, heads: Heads) -> list[float]:
        name = name_of(self.objective)
        if found.shape != (len(self.pairs),):
            raise ValueError(
                f"objective {name} must give one number for each of {len(self.pairs)} images, "
                f"found shape {tuple(found.shape)}"
            )
        for score, (prompt, seed) in zip(found.tolist(), self.pairs, strict=True):
            if not math.isfinite(score):
                *before, last = [f"{layer}:{head}" for layer, head in heads] or ["none"]
                beside = f" beside {', '.join(before)}" if before else ""
                raise ValueError(
                    f"objective {name} gave {score} for head {last}{beside}, seed {seed} and "
                    f"prompt {prompt!r}: expected a finite number"
                )
        scores: list[float] = found.tolist()
        return scores


def name_of(objective: Any) -> str:
    """The name that results know an objective by: its own, or that of its function or class."""
    name = getattr(objective, "name", None) or getattr(objective, "__name__", None)
    return name or type(objective).__name__
