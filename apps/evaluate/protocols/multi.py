"""CP-CLIP and TI-CLIP: are all the personal concepts in the picture, and is the scene still right?

Gen4Gen: Generative Data Pipeline for Generative Multi-Concept Composition, Yeh et al. 2024,
arXiv 2402.15504, section 3.5. A detector finds the requested concepts; their crops are compared
with reference pictures by CLIP (``cp_clip``), the whole picture with the prompt of the background
(``ti_clip``, which should stay constant rather than rise).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from apps.evaluate.networks.detectors import Box, Detector, load_detector
from apps.evaluate.networks.extractors import TextExtractor
from apps.evaluate.numbers.composition import cp_clip, cp_clip_matched
from apps.evaluate.pictures.captions import Row, read_rows
from apps.evaluate.pictures.features import Features
from apps.evaluate.pictures.images import read_picture
from apps.evaluate.pictures.texts import cosines, fingerprint, text_units
from apps.evaluate.pictures.workplace import Workplace
from apps.evaluate.result import Result
from apps.evaluate.scores import mean_score, single_pictures
from apps.evaluate.settings import EvaluateSettings

ABOUT = {
    "cp_clip": "mean over pictures of CP-CLIP, Eq. 4: 1 is perfect, about 0.5 is good",
    "cp_clip_matched": "the same with each crop compared only with what it was detected as (ours)",
    "detected": "share of the requested concepts that the detector finds",
    "ti_clip": "mean cosine of picture and text; should stay constant",
}


@dataclass(frozen=True)
class Request:
    """What a picture was asked to show: labels of concepts, and the text for TI-CLIP."""

    concepts: tuple[str, ...]
    text: str


def multi(
    generated: Path,
    references: Path,
    prompts: Path | None = None,
    detector: str | Detector = "emblem",
    extractor: str = "emblem-clip",
    full_prompt: bool = False,
    margin: float = 0.0,
    settings: EvaluateSettings | None = None,
) -> Result:
    """Score pictures of several concepts.

    A picture's row says what it was asked for: ``concepts``, a list of labels (without it the
    labels that its prompt names), and ``background``, the prompt without the concepts.

    Args:
        generated: folder of pictures.
        references: folder with a folder of reference pictures for each concept, named by its label.
        prompts: file of rows; see ``read_rows``.
        detector: name, see ``load_detector``, or object with ``detect``.
        extractor: for crops, references and texts; one that takes texts.
        full_prompt: compare the picture with its whole prompt, not that of the background.
        margin: how far crops reach beyond their boxes, in longer sides of the box; the paper has 0,
            emblem-clip, which knows whole scenes only, wants 0.25.
        settings: how it is carried out.

    Raises:
        ValueError: pictures, references, rows or a margin that cannot be used.
    """
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin must be a finite number from 0 up, found {margin}")
    with Workplace(settings or EvaluateSettings()) as place:
        clip = place.text_extractor(extractor)
        finder = (
            load_detector(detector, str(place.processes.device))
            if isinstance(detector, str)
            else detector
        )
        known = place.features(place.folder(references), clip)
        features = place.features(place.folder(generated), clip)
        folder, seed = features.folder, place.settings.seed

        def prepare() -> tuple[list[Request], dict[str, Tensor]]:
            concepts = _by_label(known)
            rows = read_rows(generated, folder.names, prompts)
            asked = [
                _request(name, row, list(concepts), full_prompt)
                for name, row in zip(folder.names, rows, strict=True)
            ]
            return asked, concepts

        requests, concepts = place.processes.once(prepare)

        def look(rows: Sequence[int]) -> dict[int, dict[str, float]]:
            return {
                row: _look(
                    folder.path / folder.names[row], requests[row], concepts, finder, clip, margin
                )
                for row in rows
            }

        seen: dict[int, dict[str, float]] = {}
        for parts in place.spread(range(len(folder)), look, f"{folder.path.name}, {finder.name}"):
            for part in parts:
                seen |= part

        def measure() -> Result:
            texts = [request.text for request in requests]
            values = {"ti_clip": cosines(features, text_units(texts, clip))}
            for name in seen[0]:
                column = [seen[row][name] for row in range(len(folder))]
                values[name] = torch.tensor(column, dtype=torch.float64)
            asked = [f"{', '.join(request.concepts)}: {request.text}" for request in requests]
            return Result(
                protocol="multi",
                settings={
                    "extractor": clip.describe(),
                    "detector": finder.describe(),
                    "crop_margin": margin,
                    "references": known.folder.fingerprint,
                    "ti_clip_text": "full" if full_prompt else "background",
                    "requests": fingerprint(asked),
                    "pictures": len(folder),
                    "seed": seed,
                },
                scores=tuple(
                    mean_score(
                        name,
                        values[name],
                        about,
                        groups=asked,
                        over="requests",
                        better="neither" if name == "ti_clip" else "higher",
                        seed=seed,
                    )
                    for name, about in ABOUT.items()
                ),
                images=single_pictures(folder, values, asked, asked),
            )

        return place.finish(measure)


def _by_label(known: Features) -> dict[str, Tensor]:
    """References (R, D) of each label: the name of their folder, _ read as a space."""
    labels = [PurePosixPath(name).parts[0].replace("_", " ") for name in known.folder.names]
    loose = [name for name in known.folder.names if "/" not in name]
    if loose:
        raise ValueError(
            f"reference {loose[0]!r} is in no folder; expected a folder of references for each "
            "concept, named by its label"
        )
    array = torch.from_numpy(known.array[:])
    return {
        label: array[[label == other for other in labels]]
        for label in dict.fromkeys(sorted(labels))
    }


def _request(name: str, row: Row, labels: Sequence[str], full_prompt: bool) -> Request:
    prompt = row["text"].strip()
    concepts = row.get("concepts") or _named(prompt, labels)
    known = isinstance(concepts, list) and all(concept in labels for concept in concepts)
    if not known or not concepts:
        raise ValueError(
            f"{name} asks for concepts {concepts!r}; expected a list of one or more of "
            f"{', '.join(labels)} under concepts in its row, or their names in its prompt"
        )
    text = prompt if full_prompt else row.get("background")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(
            f"{name} has no prompt of the background; give it as background in its row, or "
            "compare with whole prompts by --full-prompt"
        )
    return Request(tuple(concepts), text.strip())


def _named(prompt: str, labels: Sequence[str]) -> list[str]:
    """Labels in a prompt as whole words; a label within a longer one that is there is not meant."""
    found = []
    for label in sorted(labels, key=len, reverse=True):
        rest = re.sub(rf"(?<!\w){re.escape(label)}(?!\w)", "", prompt)
        if rest != prompt:
            found.append(label)
            prompt = rest
    return sorted(found)


def _look(
    path: Path,
    request: Request,
    concepts: Mapping[str, Tensor],
    finder: Detector,
    clip: TextExtractor,
    margin: float,
) -> dict[str, float]:
    image = read_picture(path)
    try:
        boxes = finder.detect(image, request.concepts)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    crops = [image.crop(_pixels(box, margin, image.size)) for box in boxes]
    embedded = (
        clip.features(torch.stack([clip.prepare(crop) for crop in crops]))
        if crops
        else torch.zeros(0, clip.dimension)
    )
    labels, sure = [box.label for box in boxes], [box.score for box in boxes]
    wanted = {label: concepts[label] for label in request.concepts}
    return {
        "cp_clip": cp_clip(embedded, labels, sure, wanted),
        "cp_clip_matched": cp_clip_matched(embedded, labels, sure, wanted),
        "detected": len(wanted.keys() & set(labels)) / len(wanted),
    }


def _pixels(box: Box, margin: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The pixels of a picture that a box touches, and some around it."""
    left, top, right, bottom = box.xyxy
    more = margin * max(right - left, bottom - top)
    return (
        max(0, math.floor(left - more)),
        max(0, math.floor(top - more)),
        min(size[0], math.ceil(right + more)),
        min(size[1], math.ceil(bottom + more)),
    )
