"""Classifiers of pictures on decoded predictions of x0: any network, at the cost of decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from guidance.core.classes import check_classes
from guidance.core.prediction import Step, wide
from guidance.evaluators.decoded import Decode, decoder


@dataclass(frozen=True)
class DecodedClassifier:
    """Tells classes by what pictures look like, one picture at a time.

    For zero-shot classes by CLIP the network is ``100 cos(picture, text_k)``. Gradients go through
    network and decoder, so that it serves ``ClassifierGuidance`` too.

    Args:
        network: function of pictures ``(1, 3, height, width)`` in ``[0, 1]``, float32, which
            resizes and normalises them itself and returns logits ``(1, classes)``.
        decode: a VAE, a pipeline, a function from x0 to pictures, or None, see ``Decoded``.
        classes: names of the classes, in the order of the logits.

    Raises:
        TypeError, ValueError: a setting is not of its kind.
    """

    network: Callable[[Tensor], Tensor]
    decode: Any
    classes: Sequence[str]
    _decode: Decode = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not callable(self.network):
            raise TypeError(
                "DecodedClassifier: network must be a function of pictures, found "
                f"{type(self.network).__name__}"
            )
        names = check_classes("DecodedClassifier", self.classes)
        object.__setattr__(self, "classes", names)
        object.__setattr__(self, "_decode", decoder(self.decode))

    def logits(self, x0: Tensor, step: Step) -> Tensor:
        """What the network says of the decoded pictures, ``(B, classes)``."""
        pictures = (self._decode(wide(image)).float().clamp(0, 1) for image in x0.split(1))
        return torch.cat([self.network(picture) for picture in pictures])

    def __repr__(self) -> str:
        return f"DecodedClassifier(classes={self.classes!r})"
