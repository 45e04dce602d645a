"""Scores of the finished pictures that a model drew, kept beside its records."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from apps.evaluate.pictures.processes import Processes
from apps.train.data import Data
from apps.train.scorers import Scorer
from apps.training.state import write_tensors
from guidance.evaluators.decoded import Decode, decoder


def finished_scores(
    pipe: Any, data: Data, files: Sequence[Path], scorer: Scorer, processes: Processes
) -> Tensor:
    """Score of the picture that the model drew for each caption, ``(N,)``.

    Args:
        pipe: the pipeline that the records are of.
        data: the captions.
        files: the records of all pictures, see :func:`apps.train.records.record`.
        scorer: scores pictures for their prompts.
        processes: who shares the work.

    Raises:
        ValueError: the scorer gives something else than a finite number for each picture.
    """
    key = hashlib.sha256(scorer.key.encode()).hexdigest()[:8]
    places = {path: path.with_suffix(f".{key}.scores") for path in files}
    lacking = processes.once(lambda: [path for path in files if not places[path].exists()])
    decode = decoder(pipe)

    def make(paths: Sequence[Path]) -> None:
        for path in paths:
            tensors = load_file(path)
            prompts = [data.texts[row] for row in tensors["pictures"].tolist()]
            pictures = _pictures(decode, tensors["final"].float().to(pipe.device))
            write_tensors(places[path], {"score": scorer(pictures, prompts)}, {"by": scorer.name})

    for _ in processes.spread(lacking, make, 1, f"scoring by {scorer.name}", unit="batch"):
        pass
    return torch.cat([load_file(place)["score"] for place in places.values()])


@torch.no_grad()
def _pictures(decode: Decode, latents: Tensor) -> list[Image.Image]:
    """Finished latents ``(B, C, H, W)`` as pictures."""
    pixels = torch.cat([decode(part) for part in latents.split(16)]).float().clamp(0, 1)
    arrays = (255 * pixels).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]
