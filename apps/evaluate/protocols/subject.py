"""The DreamBench protocol: does a personalised model keep its subject, and follow the prompt?

DreamBooth, Ruiz et al. 2023, arXiv 2208.12242, section 4.2. CLIP-I and DINO are mean cosines of all
pairs of a generated and a real picture of one subject, CLIP-T is the mean cosine of a picture and
its prompt without the placeholder token. The ceiling is what different real pictures of one subject
reach among each other.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from apps.evaluate.networks.extractors import Extractor
from apps.evaluate.numbers.arrays import units
from apps.evaluate.pictures.captions import Row, read_rows
from apps.evaluate.pictures.features import Features
from apps.evaluate.pictures.folder import Folder
from apps.evaluate.pictures.texts import cosines, fingerprint, text_units
from apps.evaluate.pictures.workplace import Workplace
from apps.evaluate.protocols.dreambench import without_token
from apps.evaluate.result import Result, Score
from apps.evaluate.scores import mean_score, single_pictures
from apps.evaluate.settings import EvaluateSettings

_log = logging.getLogger("diffusteer")


def subject(
    generated: Path,
    real: Path,
    prompts: Path | None = None,
    token: str | None = None,
    extractor: str = "emblem-clip",
    identity: Sequence[str] = ("emblem-classifier",),
    settings: EvaluateSettings | None = None,
) -> Result:
    """Compare generated pictures of subjects with real ones and with their prompts.

    Every subject counts the same, and intervals resample subjects; there are none for one subject.

    Args:
        generated: folder with a folder of pictures for each subject, or with those of one subject.
        real: the same with at least one real picture of each subject; two for the ceiling.
        prompts: file of prompts; see ``read_rows``.
        token: the word for the subject, which is taken out of the prompts.
        extractor: for CLIP-I and CLIP-T; see ``load_extractor``.
        identity: further extractors to compare pictures with, such as ``dino:ID_OR_PATH``.
        settings: how it is carried out.

    Raises:
        ValueError: pictures or prompts that cannot be used, or different subjects on both sides.
    """
    with Workplace(settings or EvaluateSettings()) as place:
        clip = place.text_extractor(extractor)
        networks: list[Extractor] = [clip, *map(place.extractor, identity)]
        metrics = [_metric(network) for network in networks]
        if len(set(metrics)) < len(metrics):
            raise ValueError(f"extractors must be of different kinds, found {', '.join(metrics)}")
        fake, reference = place.folder(generated), place.folder(real)
        sides = []
        for network in networks:
            made = place.features(fake, network), place.features(reference, network)
            sides.append(made)
            fake, reference = (features.folder for features in made)

        def measure() -> Result:
            owners, theirs = _owners(fake), _owners(reference)
            _check_subjects(owners, theirs)
            rows = read_rows(generated, fake.names, prompts)
            texts = [
                without_token(row["text"], token) if token else row["text"].strip() for row in rows
            ]
            _check_token(token, rows)
            _check_design(owners, texts)
            values: dict[str, Tensor] = {}
            ceilings: list[Score] = []
            for metric, (ours, others) in zip(metrics, sides, strict=True):
                centres = _centres(others, theirs)
                wanted = torch.stack([centres[owner] for owner in owners])
                values[metric] = cosines(ours, wanted)
                ceilings.append(_ceiling(f"{metric}_real", others, theirs, place.settings.seed))
            values["clip_t"] = cosines(sides[0][0], text_units(texts, clip))
            return Result(
                protocol="subject",
                settings={
                    "extractors": [network.describe() for network in networks],
                    "real": reference.fingerprint,
                    "subjects": dict(sorted(Counter(owners).items())),
                    "prompts": fingerprint(texts),
                    "seed": place.settings.seed,
                },
                scores=(
                    *(
                        mean_score(
                            name,
                            found,
                            ABOUT[name],
                            groups=owners,
                            over="subjects",
                            seed=place.settings.seed,
                        )
                        for name, found in values.items()
                    ),
                    *ceilings,
                ),
                images=single_pictures(fake, values, texts, owners),
            )

        return place.finish(measure)


ABOUT = {
    "clip_t": "mean cosine of picture and prompt, by CLIP",
    "clip_i": "mean cosine with real pictures of the subject, by CLIP",
    "dino": "mean cosine with real pictures of the subject, by DINO",
    "classifier_i": "mean cosine with real pictures of the subject, by a classifier",
    "inception_i": "mean cosine with real pictures of the subject, by Inception",
}


def _metric(network: Extractor) -> str:
    return "dino" if network.kind == "dino" else f"{network.kind}_i"


def _owners(folder: Folder) -> list[str]:
    """The subject of each picture: the outermost folder that it is in, nothing for none."""
    parts = [PurePosixPath(name).parts for name in folder.names]
    return [names[0] if len(names) > 1 else "" for names in parts]


def _check_subjects(owners: Sequence[str], theirs: Sequence[str]) -> None:
    if lacking := sorted(set(owners) ^ set(theirs)):
        side = "generated" if lacking[0] in owners else "real"
        raise ValueError(
            f"subject {lacking[0]!r} is only among the {side} pictures; expected a folder of each "
            "subject on both sides, or one subject's pictures without folders on both"
        )


def _check_token(token: str | None, rows: Sequence[Row]) -> None:
    texts = [" ".join(row["text"].split()) for row in rows]
    if token and all(without_token(text, token) == text for text in texts):
        raise ValueError(
            f"token {token!r} is in none of the prompts, the first is {texts[0]!r}; give "
            "the placeholder token that they use, or none"
        )


def _check_design(owners: Sequence[str], texts: Sequence[str]) -> None:
    counts = Counter(zip(owners, texts, strict=True))
    each = sorted(set(counts.values()))
    if len(each) > 1:
        _log.warning(
            "prompts have from %d to %d pictures; the protocol has the same number of each",
            *(each[0], each[-1]),
        )


def _groups(features: Features, owners: Sequence[str]) -> dict[str, Tensor]:
    """Directions (R, D) of the pictures of each subject."""
    rows = units(str(features.folder.path), features.array)
    names = sorted(set(owners))
    return {name: rows[[owner == name for owner in owners]] for name in names}


def _centres(features: Features, owners: Sequence[str]) -> dict[str, Tensor]:
    """Mean direction (D,) of each subject: its product is the mean cosine with all pictures."""
    return {name: rows.mean(0) for name, rows in _groups(features, owners).items()}


def _ceiling(metric: str, features: Features, owners: Sequence[str], seed: int) -> Score:
    """Mean cosine of different real pictures of a subject."""
    found = []
    for rows in _groups(features, owners).values():
        count = len(rows)
        pairs = rows.sum(0).square().sum() - count
        found.append(float(pairs) / (count * (count - 1)) if count > 1 else math.nan)
    about = "mean cosine of different real pictures of one subject, the ceiling"
    values = torch.tensor(found, dtype=torch.float64)
    return mean_score(metric, values, about, over="subjects", better="neither", seed=seed)
