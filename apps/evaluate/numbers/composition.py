"""Scores of pictures of several concepts, from embeddings of their crops.

Gen4Gen: Generative Data Pipeline for Generative Multi-Concept Composition, Yeh et al. 2024,
arXiv 2402.15504, section 3.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from apps.evaluate.numbers.arrays import Array, check_widths, units


def cp_clip(
    crop_embeddings: Array,
    labels: Sequence[str],
    scores: Sequence[float] | Array,
    references: Mapping[str, Array],
) -> float:
    """Composition and personalisation of one picture: 1 if every concept is seen perfectly.

    Of each requested label the crop with the highest score counts, with the highest over all
    requested concepts of its mean cosine with their references: concepts in each other's place
    cost nothing, missing ones count 0. Gen4Gen, 2024, arXiv 2402.15504, Eq. 1-4; not clamped.

    Args:
        crop_embeddings: (M, D), of detected boxes; none is 0.
        labels: M, what each box was detected as.
        scores: (M,), how surely; of equal ones the first counts.
        references: of each requested concept embeddings (R, D), R from 1 up.

    Raises:
        ValueError: no concepts, no references, rows of zeros, or lengths that do not match.
    """
    kept = _best(crop_embeddings, labels, scores, references)
    return sum(max(row.values()) for row in kept.values()) / len(references)


def cp_clip_matched(
    crop_embeddings: Array,
    labels: Sequence[str],
    scores: Sequence[float] | Array,
    references: Mapping[str, Array],
) -> float:
    """``cp_clip`` with each crop compared with the concept it was detected as, and no other."""
    kept = _best(crop_embeddings, labels, scores, references)
    return sum(row[label] for label, row in kept.items()) / len(references)


def _best(
    crop_embeddings: Array,
    labels: Sequence[str],
    scores: Sequence[float] | Array,
    references: Mapping[str, Array],
) -> dict[str, dict[str, float]]:
    """Of the surest crop of each requested label, the mean cosine with each concept."""
    if not references:
        raise ValueError("references name no concept; at least 1 must be requested")
    if not len(crop_embeddings) == len(labels) == len(scores):
        raise ValueError(
            f"there are {len(crop_embeddings)} crop_embeddings, {len(labels)} labels and "
            f"{len(scores)} scores; expected as many of each"
        )
    sure = [float(score) for score in scores]
    if not all(map(math.isfinite, sure)):
        raise ValueError(f"scores must be finite, found {sure}")
    best: dict[str, int] = {}
    for number, label in enumerate(labels):
        if label in references and (label not in best or sure[number] > sure[best[label]]):
            best[label] = number
    concepts = {label: units(f"references[{label!r}]", x) for label, x in references.items()}
    if not len(labels):
        return {}
    crops = units("crop_embeddings", crop_embeddings)
    for label, known in concepts.items():
        check_widths("crop_embeddings", crops, f"references[{label!r}]", known)
    return {
        label: {name: float((known @ crops[row]).mean()) for name, known in concepts.items()}
        for label, row in best.items()
    }


def ti_clip(image_embeddings: Array, text_embedding: Array) -> float:
    """Mean cosine of whole pictures (N, D) with one text (D,), or with a text each (N, D).

    Gen4Gen, 2024, arXiv 2402.15504, section 3.5: the text is that of the background, and a value
    that falls while CP-CLIP rises shows overfitting. In [-1, 1], neither clamped nor scaled.

    Raises:
        ValueError: no rows, rows of zeros, numbers that are not finite, or shapes that differ.
    """
    images = units("image_embeddings", image_embeddings)
    one = np.ndim(text_embedding) == 1
    texts = units("text_embedding", text_embedding[None] if one else text_embedding)
    check_widths("image_embeddings", images, "text_embedding", texts)
    if not one and len(texts) != len(images):
        raise ValueError(f"there are {len(images)} image_embeddings and {len(texts)} texts")
    return float((images * texts).sum(1).mean())
