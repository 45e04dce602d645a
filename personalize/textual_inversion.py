"""Textual inversion: a new word whose vectors are all that is learned.

"An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion", Rinon
Gal, Yuval Alaluf, Yuval Atzmon, Or Patashnik, Amit H. Bermano, Gal Chechik and Daniel Cohen-Or,
2022, arXiv 2208.01618, equation 2; regularization by ``l2_to_init`` is in the authors' code.

    V* = argmin_V  E_{z, y, eps, t} || target - denoiser(z_t, t, c_V(y)) ||^2

V are rows of the text encoders' embeddings, one for each vector; y is a template or a caption with
the word in it.

Deviations: V is a parameter of its own in float32 and not a part of the table, which gives the same
V up to rounding where nothing decays. Several vectors, several text encoders (each has rows of its
own), flow matching, clip_skip and the norm rules came after the paper: ``std_pull`` is that of
``train_dreambooth_lora_sdxl_advanced.py`` in diffusers, ``rescale`` is ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from personalize.core.checks import FILE, TEXT, check_settings, finite, optional, whole
from personalize.core.files import Artifact
from personalize.core.method import Batch, Context, Training
from personalize.core.tokens import (
    Placeholder,
    check_token,
    initial_rows,
    nearest_words,
    rescale,
    std_pull,
)


@dataclass(frozen=True)
class TextualInversion:
    """How to learn a word for Stable Diffusion 1, 2, XL or 3, or FLUX.1 (its CLIP alone).

    Args:
        placeholder_token: the word in prompts, such as ``<my-cat>``.
        initializer_token: text whose vectors the new ones start as, over and over; one word that
            says what the pictures show is best. None starts from noise of the table's spread.
        initializer_file: embeddings to go on from instead, in any format that ``load`` reads.
        num_vectors: how many, 1 if not given, or as many as the file has.
        class_word: a word to follow the placeholder in training, as ``dog`` in ``<my-dog> dog``.
        norm: what to do after each step: ``"none"``, ``"std_pull"`` for a pull of the spread of the
            vectors towards that of the table, or ``"rescale"`` for the mean length of its rows.
        l2_to_init: weight of the mean squared distance of the vectors from their start.
        clip_skip: layers of CLIP to leave out, as pictures are to be drawn with.

    Raises:
        TypeError, ValueError: a setting is not of its kind or out of its range.
    """

    name: ClassVar[str] = "textual-inversion"
    defaults: ClassVar[Mapping[str, Any]] = {}

    placeholder_token: str
    initializer_token: str | None = None
    initializer_file: str | Path | None = None
    num_vectors: int | None = None
    class_word: str | None = None
    norm: Literal["none", "std_pull", "rescale"] = "none"
    l2_to_init: float = 0.0
    clip_skip: int | None = None

    def __post_init__(self) -> None:
        check_token(self.placeholder_token)
        check_settings(
            self,
            {
                "initializer_token": optional(TEXT),
                "initializer_file": optional(FILE),
                "num_vectors": optional(whole(1)),
                "class_word": optional(TEXT),
                "l2_to_init": finite("from 0 up", lambda value: value >= 0),
                "clip_skip": optional(whole(0)),
            },
        )
        if self.initializer_token is not None and self.initializer_file is not None:
            raise ValueError(
                "TextualInversion: initializer_token and initializer_file cannot both be given, "
                f"found {self.initializer_token!r} and {str(self.initializer_file)!r}"
            )
        if self.norm not in ("none", "std_pull", "rescale"):
            raise ValueError(
                "TextualInversion: norm must be 'none', 'std_pull' or 'rescale', found "
                f"{self.norm!r}"
            )

    @property
    def subject(self) -> str:
        """What stands for ``{}`` in prompts during training."""
        return " ".join(filter(None, (self.placeholder_token, self.class_word)))

    def start(self, context: Context) -> Training:
        """The vectors at their start; the pipeline is not touched.

        Raises:
            ValueError: a token that the tokenizers know, an initializer that does not fit, a prompt
                without the placeholder or so long that it is cut off.
        """
        return _Training(self, context)


class _Training(Training):
    def __init__(self, settings: TextualInversion, context: Context) -> None:
        self._settings, self._backbone = settings, context.backbone
        self._start = initial_rows(
            context.backbone,
            context.generator,
            settings.num_vectors,
            settings.initializer_token,
            settings.initializer_file,
        )
        placeholder = Placeholder(context.backbone, settings.placeholder_token, self._start)
        for item in context.items:
            for prompt in item.prompts:
                placeholder.check(prompt.replace("{}", settings.subject), item.name)
        self._placeholder = placeholder
        tables = {encoder.key: encoder.table.float() for encoder in context.backbone.text_encoders}
        self._spread = {key: table.std() for key, table in tables.items()}
        self._length = {key: table.norm(dim=1).mean() for key, table in tables.items()}
        self.parameters = dict(placeholder.rows)

    def loss(self, batch: Batch) -> Tensor:
        prompts = [prompt.replace("{}", self._settings.subject) for prompt in batch.prompts]
        conditioning = self._placeholder.encode(prompts, self._settings.clip_skip)
        predicted = self._backbone.predict(batch.noisy, batch.timesteps, conditioning, batch.sizes)
        loss = batch.error(predicted)
        if self._settings.l2_to_init:
            loss = loss + self._settings.l2_to_init * self._distance()
        return loss

    def _distance(self) -> Tensor:
        """Mean squared distance of the vectors from their start."""
        squares = [
            (rows - self._start[key]).square().sum(1) for key, rows in self.parameters.items()
        ]
        return torch.cat(squares).mean()

    @torch.no_grad()
    def after_step(self, step: int) -> Mapping[str, float]:
        for key, rows in self.parameters.items():
            if self._settings.norm == "std_pull":
                rows.copy_(std_pull(rows, self._spread[key]))
            elif self._settings.norm == "rescale":
                rows.copy_(rescale(rows, self._length[key]))
        log = {}
        for key, rows in self.parameters.items():
            cosines = F.cosine_similarity(rows, self._start[key])
            for number, (row, cosine) in enumerate(zip(rows, cosines, strict=True)):
                log[f"norm/{key}/{number}"] = float(row.norm())
                log[f"cosine_to_start/{key}/{number}"] = float(cosine)
        return log

    def state(self) -> dict[str, Tensor]:
        return {f"start.{key}": rows for key, rows in self._start.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self._start = {
            key: tensors[f"start.{key}"].to(rows.device) for key, rows in self._start.items()
        }

    def artifact(self) -> Artifact:
        near = {
            encoder.key: nearest_words(encoder, self.parameters[encoder.key])
            for encoder in self._backbone.text_encoders
        }
        metadata = {
            "token": self._settings.placeholder_token,
            "nearest_words": json.dumps(near),
            "clip_skip": json.dumps(self._settings.clip_skip),
        }
        rows = {key: rows.detach().float().cpu() for key, rows in self.parameters.items()}
        return Artifact("textual-inversion", rows, metadata)
