"""What a visitor can ask a training for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from apps.demo.forms import Form
from apps.demo.model import Model
from apps.shipped import shipped_names
from personalize import Perfusion, TextualInversion, TrainSettings, ZOODiP
from personalize.core.method import Method
from personalize.core.steps import DTYPES

METHODS = {
    "textual inversion: a word, the model stays as it is": "textual-inversion",
    "Perfusion: a concept whose strength is set when drawing": "perfusion",
    "ZOODiP: a word by forward passes alone, in little memory": "zoodip",
}


@dataclass(frozen=True)
class Pace:
    """How long a method trains, and on what.

    Attributes:
        steps: of the optimizer.
        batch: photos of a step.
        rate: learning rate, 0 for the method's own.
        text: caption of photos, empty for the method's templates.
    """

    steps: int
    batch: int
    rate: float
    text: str = "a {}"


_PACES = {
    "textual-inversion": Pace(1000, 8, 0.05),
    "perfusion": Pace(400, 8, 0.03),
    "zoodip": Pace(1000, 4, 0.05),
}
"""Of the shipped models, for up to two minutes of one core; they know no "photo of"."""
_VECTORS = 4
MOST_TEXT = 300
CHECKS = 6
"""Times that pictures are drawn during a training."""


def pace(model: str, method: str) -> Pace:
    """What to begin with; rate and caption are for the small shipped models alone."""
    found = _PACES[method]
    return found if model in shipped_names() else replace(found, rate=0.0, text="")


def with_place(text: str) -> str:
    """A caption or prompt; raises ValueError unless it says once where the word goes."""
    if text.count("{}") != 1 or len(text) > MOST_TEXT:
        raise ValueError(f"write {{}} once, where the learned word goes, found {text!r:.60}")
    return text


def caption(photos: Sequence[Path], gallery: Sequence[Any], text: str) -> None:
    """Write the captions of received photos beside them.

    Args:
        photos: where they are.
        gallery: value of the gallery that they come from: pairs of a file and its own caption.
        text: for photos without one; empty for none.

    Raises:
        ValueError: a caption that does not say once where the word goes.
    """
    for photo, (_, own) in zip(photos, gallery, strict=True):
        if found := own or text:
            photo.with_suffix(".txt").write_text(with_place(found), encoding="utf-8")


class TrainRequest(Form):
    """A training.

    Attributes:
        model: name of the model.
        method: one of ``METHODS``.
        word: to learn.
        start: a known word for what the photos show.
        text: caption of photos that have none of their own, ``{}`` is the word; empty for the
            method's templates.
        steps: of the optimizer.
        rate: learning rate, 0 for the method's own.
        batch: photos of a step.
        check: prompt of the pictures that are drawn on the way, ``{}`` is the word.
    """

    model: Annotated[str, Field(max_length=200)]
    method: Literal["textual-inversion", "perfusion", "zoodip"]
    word: str
    start: Annotated[str, Field(min_length=1, max_length=60)]
    text: Annotated[str, Field(max_length=MOST_TEXT)]
    steps: Annotated[int, Field(ge=1, le=2000)]
    rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    batch: Annotated[int, Field(ge=1, le=8)] = 4
    check: Annotated[str, Field(min_length=1, max_length=MOST_TEXT)]

    @field_validator("word")
    @classmethod
    def _in_brackets(cls, word: str) -> str:
        if not re.fullmatch(r"<[\w-]{1,30}>", word):
            raise ValueError(
                "write up to 30 letters, digits or hyphens in angle brackets, such as <my-thing>, "
                f"found {word!r:.60}"
            )
        return word

    @field_validator("text", "check")
    @classmethod
    def _has_a_place(cls, text: str) -> str:
        return with_place(text) if text else text

    def settings(self, model: Model) -> TrainSettings:
        """For the trainer, in the precision of the model."""
        precision = next(name for name, dtype in DTYPES.items() if dtype == model.pipe.dtype)
        own: dict[str, Any] = {"learning_rate": self.rate} if self.rate else {}
        return TrainSettings.model_validate(
            own
            | {
                "mixed_precision": precision,
                "max_train_steps": self.steps,
                "train_batch_size": self.batch,
                "gradient_accumulation_steps": 1,
                "checkpointing_steps": max(1, self.steps // 10),
                "checkpoints_total_limit": 1,
                "validation_prompt": self.check,
                "num_validation_images": 1,
                "validation_steps": max(1, self.steps // CHECKS),
            }
        )

    def trainer(self) -> Method:
        """The method with its settings."""
        match self.method:
            case "textual-inversion":
                return TextualInversion(
                    self.word, initializer_token=self.start, num_vectors=_VECTORS
                )
            case "perfusion":
                return Perfusion(self.word, super_category=self.start)
            case _:
                return ZOODiP(self.word, initializer_token=self.start, num_vectors=_VECTORS)
