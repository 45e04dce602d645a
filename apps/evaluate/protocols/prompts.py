"""How well pictures show what their prompts say, as CLIP and preference models see it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from apps.evaluate.networks.rewards import Reward
from apps.evaluate.pictures.captions import read_rows
from apps.evaluate.pictures.folder import Folder
from apps.evaluate.pictures.images import read_picture
from apps.evaluate.pictures.texts import cosines, fingerprint, text_units
from apps.evaluate.pictures.workplace import Workplace
from apps.evaluate.result import Result, Score
from apps.evaluate.scores import mean_score, single_pictures
from apps.evaluate.settings import EvaluateSettings

REWARD = "mean score of a preference model, on its own scale"


def prompts(
    generated: Path,
    prompts: Path | None = None,
    extractor: str = "emblem-clip",
    rewards: Sequence[str | Reward] = (),
    settings: EvaluateSettings | None = None,
) -> Result:
    """Score pictures for their prompts.

    ``clip_t`` is the mean cosine of picture and prompt; ``clip_score`` is 100 times it, clamped at
    0 after the mean, as torchmetrics has it; ``clip_score_hessel`` is 2.5 times the mean of the
    cosines, each clamped at 0 (Hessel et al. 2021, arXiv 2104.08718). Every prompt counts the same,
    and intervals resample prompts.

    Args:
        generated: folder of pictures.
        prompts: file of prompts; see ``read_rows``.
        extractor: one that takes texts; see ``load_extractor``.
        rewards: names, see ``load_reward``, or objects with ``score``.
        settings: how it is carried out.

    Raises:
        ValueError: pictures or prompts that cannot be used.
    """
    with Workplace(settings or EvaluateSettings()) as place:
        clip = place.text_extractor(extractor)
        models = [place.reward(item) if isinstance(item, str) else item for item in rewards]
        _check_names(models)
        features = place.features(place.folder(generated), clip)
        folder, seed = features.folder, place.settings.seed
        rows = place.processes.once(lambda: read_rows(generated, folder.names, prompts))
        texts = [row["text"].strip() for row in rows]
        liked = {model.name: _liked(model, folder, texts, place) for model in models}

        def measure() -> Result:
            cosine = cosines(features, text_units(texts, clip))
            means = [
                mean_score(
                    model.name, liked[model.name], REWARD, groups=texts, over="prompts", seed=seed
                )
                for model in models
            ]
            values = {"clip_t": cosine, **liked}
            return Result(
                protocol="prompts",
                settings={
                    "extractor": clip.describe(),
                    "rewards": [model.describe() for model in models],
                    "pictures": len(folder),
                    "prompts": fingerprint(texts),
                    "seed": seed,
                },
                scores=(*clip_scores(cosine, texts, seed), *means),
                images=single_pictures(folder, values, texts, texts),
            )

        return place.finish(measure)


def clip_scores(cosine: Tensor, texts: Sequence[str], seed: int) -> tuple[Score, ...]:
    """Mean cosine (N,) of pictures and their texts, on the three scales that are in use."""
    about = "mean cosine of picture and prompt"
    mean = mean_score("clip_t", cosine, about, groups=texts, over="prompts", seed=seed)
    return (
        mean,
        replace(
            mean,
            metric="clip_score",
            value=_hundred(mean.value),
            interval=mean.interval and (_hundred(mean.interval[0]), _hundred(mean.interval[1])),
            about=f"100 x clip_t, clamped at 0; {mean.about}",
        ),
        mean_score(
            "clip_score_hessel",
            2.5 * cosine.clamp(min=0),
            "mean of 2.5 x cosine, each clamped at 0",
            groups=texts,
            over="prompts",
            seed=seed,
        ),
    )


def _hundred(cosine: float) -> float:
    return max(100 * cosine, 0.0)


def _check_names(models: Sequence[Reward]) -> None:
    names = ["clip_t", *(model.name for model in models)]
    if len(set(names)) < len(names):
        raise ValueError(
            f"rewards must have different names, and none be clip_t; found {', '.join(names[1:])}"
        )


def _liked(model: Reward, folder: Folder, texts: Sequence[str], place: Workplace) -> Tensor:
    """A reward's score of each picture (N,)."""

    def score(rows: Sequence[int]) -> dict[int, float]:
        images = [read_picture(folder.path / folder.names[row]) for row in rows]
        found = model.score([texts[row] for row in rows], images) if rows else []
        finite = sum(map(math.isfinite, found))
        if not finite == len(found) == len(rows):
            raise ValueError(
                f"reward {model.name} gives {finite} finite numbers for {len(rows)} pictures; "
                "expected one for each"
            )
        return dict(zip(rows, found, strict=True))

    values = torch.full((len(folder),), torch.nan, dtype=torch.float64)
    for parts in place.spread(range(len(folder)), score, f"{folder.path.name}, {model.name}"):
        for row, value in (pair for part in parts for pair in part.items()):
            values[row] = value
    return values
