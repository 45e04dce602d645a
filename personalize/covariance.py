"""The second moment of text encodings, in whose metric concepts are edited.

``C = E[e e^T]`` over the rows of a text encoder's output, uncentred, as in "Key-Locked Rank One
Editing for Text-to-Image Personalization", Tewel et al., 2023, arXiv 2305.01644, after ROME (Meng
et al., 2022, arXiv 2202.05262). Public re-implementations take 100,000 captions of LAION. Which
positions count is not published: one counts all, one those without padding. Shrinkage and the
captions that come along are ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidance.core.fingerprint import fingerprint, matches
from personalize.core.backbone import Backbone
from personalize.core.backbones import backbone_of
from personalize.core.safetensors_file import read_safetensors, write_safetensors

POSITIONS = ("all", "nonpad")
FORMAT = "diffusteer covariance 1"
_MAX_BYTES = 512_000_000

_WAYS = ("a photo of {}", "a painting of {}", "a drawing of {}", "{}", "a close-up of {}")
_THINGS = (
    "a man", "a woman", "a child", "two friends", "an old couple", "a crowd of people", "a dog",
    "a cat", "a horse", "a bird", "a fish", "an elephant", "a lion", "a butterfly", "a tree",
    "a flower", "a mountain", "a river", "a lake", "the sea", "a forest", "a desert", "the sky",
    "a house", "a castle", "a church", "a bridge", "a street", "a city", "a village", "a car",
    "a bicycle", "a train", "a boat", "an airplane", "a table", "a chair", "a bed", "a lamp",
    "a book", "a guitar", "a cup", "a bottle", "a bowl of fruit", "a cake", "a pizza", "a hat",
    "a dress", "a pair of shoes", "a backpack", "a clock", "a computer", "a phone", "a toy robot",
    "a teddy bear", "a statue", "a dragon", "an astronaut", "a wizard", "a knight",
)  # fmt: skip
_PLACES = (
    "", " in the snow", " on a beach", " at night", " in a garden", " on a white background",
    " in a kitchen", " under a blue sky",
)  # fmt: skip


def generic_captions() -> tuple[str, ...]:
    """Captions of everyday things, for people who have none: every way, thing and place."""
    return tuple(
        way.format(thing + place) for way, thing, place in product(_WAYS, _THINGS, _PLACES)
    )


@dataclass(frozen=True)
class Covariance:
    """C, and what it belongs to.

    Attributes:
        matrix: ``(d, d)`` float64, symmetric and positive definite.
        captions: number of captions that it is over.
        positions: ``"all"`` or ``"nonpad"``.
        clip_skip: layers of CLIP that were left out.
        encoders: fingerprint of each text encoder.

    Raises:
        ValueError: the matrix is not positive definite.
    """

    matrix: Tensor
    captions: int
    positions: str
    clip_skip: int | None
    encoders: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.matrix.shape[0] != self.matrix.shape[1]:
            raise ValueError(f"C must be square, found shape {tuple(self.matrix.shape)}")
        if not bool(self.matrix.isfinite().all()):
            raise ValueError("C must be finite, found nan or infinity in it")
        lowest = float(torch.linalg.eigvalsh(self.matrix)[0])
        if not lowest > 0:
            raise ValueError(
                f"C must be positive definite, found an eigenvalue of {lowest:g}; estimate it from "
                "more captions or with more shrinkage"
            )

    @property
    def digest(self) -> str:
        """Names the matrix in the files of the concepts that were trained with it."""
        return hashlib.sha256(self.matrix.float().numpy().tobytes()).hexdigest()

    def solve(self, rows: Tensor) -> Tensor:
        """``C^-1 e`` of rows e ``(n, d)``, float64."""
        factor = torch.linalg.cholesky(self.matrix.to(rows.device))
        return torch.cholesky_solve(rows.double().T, factor).T

    def check(self, pipe: Any, clip_skip: int | None = None) -> None:
        """Raise ValueError unless it is over the encodings of this pipeline."""
        found = _encoders(backbone_of(pipe))
        same = len(found) == len(self.encoders) and all(map(matches, found, self.encoders))
        if not same:
            raise ValueError(
                "the covariance is of other text encoders than the pipeline's; estimate it anew"
            )
        if clip_skip != self.clip_skip:
            raise ValueError(
                f"the covariance is of encodings with clip_skip={self.clip_skip}, found "
                f"clip_skip={clip_skip}; estimate it anew"
            )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, C in float32; it is never seen half written."""
        about = {
            "format": FORMAT,
            "captions": str(self.captions),
            "positions": self.positions,
            "clip_skip": json.dumps(self.clip_skip),
            "encoders": json.dumps(self.encoders),
        }
        write_safetensors(Path(path), {"C": self.matrix.float()}, about)

    @staticmethod
    def load(path: str | Path) -> Covariance:
        """Read what ``save`` wrote; raises ValueError for any other file."""
        try:
            tensors, about = read_safetensors(Path(path), _MAX_BYTES)
            if about.get("format") != FORMAT:
                raise ValueError("it holds something else")
            return Covariance(
                tensors["C"].double(),
                int(about["captions"]),
                about["positions"],
                json.loads(about["clip_skip"]),
                tuple(json.loads(about["encoders"])),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(path)!r} must be a covariance that `diffusteer train covariance` wrote, but "
                f"it cannot be used ({error})"
            ) from error


@torch.no_grad()
def estimate_covariance(
    pipe: Any,
    captions: Iterable[str] | None = None,
    *,
    positions: str = "all",
    shrinkage: float | None = None,
    clip_skip: int | None = None,
    batch_size: int = 32,
) -> Covariance:
    """The second moment of a pipeline's text encodings over captions.

    Args:
        pipe: pipeline of Stable Diffusion 1, 2 or XL.
        captions: texts; the more the better, and at least as many as encodings have numbers. None
            for ``generic_captions()``.
        positions: ``"all"`` of the encoder's, or ``"nonpad"`` for those before the padding.
        shrinkage: share of the mean of the diagonal that is added to it; None for 1e-6, or 1e-3
            with fewer captions than ten times the width.
        clip_skip: as the concepts are to be trained and drawn with.
        batch_size: captions to encode at once.

    Raises:
        ValueError: no captions, a setting out of range, encodings that are not finite.
    """
    if positions not in POSITIONS:
        raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, found {positions!r}")
    if shrinkage is not None and not 0 <= shrinkage < float("inf"):
        raise ValueError(f"shrinkage must be a finite number from 0 up, found {shrinkage}")
    texts = list(generic_captions() if captions is None else captions)
    if not texts:
        raise ValueError("captions must hold at least one text, found none")
    backbone = backbone_of(pipe)
    total: Tensor | float = 0.0
    for start in range(0, len(texts), batch_size):
        part = texts[start : start + batch_size]
        rows = backbone.encode(part, clip_skip).embeds.double()
        if positions == "nonpad":
            rows = rows[attended(backbone, part).to(rows.device)]
        rows = rows.reshape(-1, rows.shape[-1])
        total = total + rows.T @ rows
    assert isinstance(total, Tensor)
    width = len(total)
    share = shrinkage
    if share is None:
        share = 1e-6 if len(texts) >= 10 * width else 1e-3
    mean = (total / len(texts)).cpu()
    matrix = mean + share * mean.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    # In the precision of the file, so that a concept knows the matrix before and after.
    matrix = ((matrix + matrix.T) / 2).float().double()
    return Covariance(matrix, len(texts), positions, clip_skip, _encoders(backbone))


def attended(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """bool ``(B, tokens)``: the positions before the padding, as the pipeline tokenizes."""
    encoder = backbone.text_encoders[0]
    found = encoder.tokenizer(
        list(texts),
        padding="max_length",
        max_length=encoder.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    mask: Tensor = found.attention_mask.bool()
    return mask


def _encoders(backbone: Backbone) -> tuple[str, ...]:
    """Fingerprint of each text encoder, without the rows of words, which grow with concepts."""
    return tuple(
        fingerprint(encoder.model, lambda name: "token_embedding" not in name)
        for encoder in backbone.text_encoders
    )
