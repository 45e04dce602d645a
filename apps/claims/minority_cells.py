"""Cells of the claims about rare pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from apps.claims.cells import Cell, short
from apps.claims.measure import CALL
from guidance.minority_scores import OfPictures, minority_scores

MEASURES = ("rarity", "rare", "rare_of_number", "double", "unknown")


def prompted(prompts: str) -> bool:
    """Whether these requests have prompts, which ask for ordinary guidance."""
    return prompts != "empty"


def plain(model: str, prompts: str) -> Cell:
    """What rules for rare pictures are compared with."""
    claim = f"minority-{short(model)}-{prompts}"
    return Cell(
        name=f"{claim}-none",
        claim=claim,
        rule="CFG(4)" if prompted(prompts) else "CFG(1)",
        model=model,
        prompts=prompts,
        measures=MEASURES,
        series="plain",
    )


def minority(model: str, prompts: str, rule: str, strength: float, *networks: str) -> Cell:
    """A rule for rare pictures at some strength, which stands for the braces in its text."""
    name, base = rule.partition("(")[0], plain(model, prompts)
    text = rule.format(f"{strength:g}")
    text = f"{base.rule} + {text}" if prompted(prompts) else text
    return Cell(
        name=f"{base.claim}-{name}-{strength:g}",
        claim=base.claim,
        rule=text,
        model=model,
        prompts=prompts,
        baseline=base.name,
        series=name,
        knobs={"strength": strength},
        measures=MEASURES,
        networks=networks,
    )


def scored(model: str, level: float, decoded: bool = False) -> Cell:
    """The minority score of fresh renders, in latents or as the pictures that they stand for."""

    @torch.no_grad()
    def score(pipe: Any, pixels: Tensor) -> Tensor:
        config = pipe.vae.config
        latents = pipe.vae.encode(pixels).latent_dist.mode() - (config.shift_factor or 0.0)
        call = {"prompt": [""] * len(pixels), "guidance_scale": 1.0, **CALL.get(model, {})}
        distance = OfPictures(pipe) if decoded else "mse"
        return minority_scores(
            pipe, latents * config.scaling_factor, call, level=level, distance=distance
        )

    where = "of pictures" if decoded else "of latents"
    return Cell(
        name=f"score-{short(model)}-{'pictures' if decoded else 'latents'}-{level:g}",
        claim=f"score-{short(model)}",
        rule=f"minority_score {where}, level {level:g}",
        model=model,
        prompts="empty",
        steps=0,
        series=where,
        knobs={"level": level},
        score=score,
    )
