"""Minority scores of the pictures of a folder under a model, with the latents that have them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from apps.evaluate.pictures.processes import Processes
from apps.generate import Call
from apps.pipelines import call_parameters
from apps.train.data import Data
from apps.train.encode import Encode
from apps.train.records import origin_of
from apps.training.state import write_tensors
from guidance import OfPictures, Step, minority_scores
from guidance.minority import Distance
from guidance.minority_scores import LEVELS

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How pictures are scored.

    Attributes:
        level, draws, distance: see ``apps.train.minority_settings``.
        prompts: of each picture, None where the pipeline takes none.
        labels: class label of each picture, where it takes such.
        batch_size: pictures scored at once.
        seed: of everything random.
    """

    level: float
    draws: int
    distance: str
    prompts: Sequence[str] | None
    labels: Sequence[int] | None
    batch_size: int
    seed: int

    def call(self, rows: range) -> dict[str, Any]:
        """What tells the pipeline what it is to draw."""
        if self.labels is not None:
            return {"class_labels": [self.labels[row] for row in rows]}
        if self.prompts is not None:
            return {"prompt": [self.prompts[row] for row in rows]}
        return {"batch_size": len(rows)}


@dataclass(frozen=True)
class Scored:
    """Pictures with their scores.

    Attributes:
        latents: ``(N, C, H, W)`` in float32, as the denoiser sees them.
        scores: ``(N,)``.
        levels: ``log(sigma / alpha)`` of the model's noise levels, rising.
    """

    latents: Tensor
    scores: Tensor
    levels: Tensor


def check_takes(pipe: Any, labels: bool) -> None:
    """Raise ValueError where it is unknown how to ask a pipeline for pictures."""
    takes = set(call_parameters(pipe))
    if "class_labels" in takes and not labels:
        raise ValueError(
            f"{type(pipe).__name__} draws classes: name the column of the class with --label"
        )
    if not {"prompt", "batch_size", "class_labels"} & takes:
        raise ValueError(
            f"{type(pipe).__name__} takes neither prompts, class labels nor a batch_size: it draws "
            "from something else, and rarity is not known then"
        )


def score(pipe: Any, data: Data, plan: Plan, processes: Processes, folder: Path) -> Scored:
    """Score all pictures, or what is lacking of them; finished batches are kept in ``folder``.

    Raises:
        ValueError: a picture that cannot be read, or latents that nothing is learned of.
    """
    origin = origin_of(pipe) | {"format": _FORMAT, "levels": LEVELS}
    origin |= {name: getattr(plan, name) for name in ("level", "draws", "distance", "seed")}
    files: dict[Path, range] = {}
    for start in range(0, len(data), plan.batch_size):
        rows = range(start, min(start + plan.batch_size, len(data)))
        pictures = data.pictures.digests[start : rows.stop]
        own = {"start": start, "pictures": pictures, "call": plan.call(rows)}
        name = hashlib.sha256(json.dumps(origin | own, sort_keys=True).encode()).hexdigest()[:24]
        files[folder / f"{name}.safetensors"] = rows
    folder.mkdir(parents=True, exist_ok=True)
    lacking = processes.once(lambda: [path for path in files if not _whole(path)])
    encode = Encode(pipe)
    distances: dict[str, Distance] = {"mse": "mse", "pictures": OfPictures(pipe)}
    distance = distances.get(plan.distance) or OfPictures(pipe, plan.distance)

    def make(paths: Sequence[Path]) -> None:
        for path in paths:
            tensors = _scored(pipe, data, plan, files[path], encode, distance)
            write_tensors(path, tensors, {"origin": json.dumps(origin)})

    for _ in processes.spread(lacking, make, 1, "scoring pictures", unit="batch"):
        pass
    parts = [load_file(path) for path in files]
    latents, scores = (torch.cat([part[name] for part in parts]) for name in ("latents", "scores"))
    return Scored(latents.float(), scores, parts[0]["levels"])


def _whole(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as file:
            return "scores" in file.keys()  # noqa: SIM118
    except Exception:  # absent, or cut short by a full disk
        return False


def _scored(
    pipe: Any, data: Data, plan: Plan, rows: range, encode: Encode, distance: Distance
) -> dict[str, Tensor]:
    """The tensors of one file."""
    paths = [data.pictures.path / data.pictures.names[row] for row in rows]
    generators = [torch.Generator().manual_seed(plan.seed * 1_000_003 + row) for row in rows]
    seen: dict[str, Tensor] = {}

    def latents(step: Step) -> Tensor:
        steps = [step.at(share / LEVELS) for share in range(LEVELS)]
        seen["levels"] = torch.tensor([each.edm_sigma for each in steps]).log()
        # Half precision as it is kept, so that scores are those of what is learned from.
        # The encoder asks a step for the shape of predictions, that of its sample.
        shaped = replace(step, evaluator=lambda branch: step.x)
        seen["latents"] = encode(paths, generators, shaped).half()
        return seen["latents"].float()

    call: Mapping[str, Any] = {
        **Call(steps=LEVELS, guided=False).arguments(pipe, len(rows)),
        **plan.call(rows),
    }
    seen["scores"] = minority_scores(
        pipe,
        latents,
        call,
        level=plan.level,
        draws=plan.draws,
        seed=plan.seed,
        distance=distance,
    ).float()
    return seen
