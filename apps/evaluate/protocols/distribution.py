"""How far the law of generated pictures is from that of real ones, and how varied they are."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from apps.evaluate.comparison import differing
from apps.evaluate.networks.extractors import Extractor
from apps.evaluate.numbers.moments import Moments
from apps.evaluate.numbers.saved_moments import Statistics, read_statistics, write_statistics
from apps.evaluate.numbers.set_scores import fid, kid, neighbourhoods, vendi
from apps.evaluate.pictures.features import Features
from apps.evaluate.pictures.folder import Folder
from apps.evaluate.pictures.workplace import Workplace
from apps.evaluate.result import Result, Score
from apps.evaluate.scores import single_pictures
from apps.evaluate.settings import EvaluateSettings

_log = logging.getLogger("diffusteer")

METRICS = ("fid", "kid", "prdc", "vendi")
"""Groups of metrics; ``prdc`` is precision, recall, density and coverage."""

FROM_STATISTICS = ("fid", "vendi")
"""Those that need no real pictures beside their statistics."""


def distribution(
    generated: Path,
    reference: Path,
    extractor: str = "emblem-classifier",
    metrics: Collection[str] | None = None,
    settings: EvaluateSettings | None = None,
) -> Result:
    """Compare the features of a folder with those of real pictures.

    FID and KID are 0 for equal laws. KID is taken over all pairs of pictures, unbiased, and may be
    negative; FID is biased upwards, the more the fewer pictures there are. Precision, recall and
    coverage are in [0, 1], density is 1 on average for equal laws. The Vendi score is the effective
    number of different generated pictures. Intervals are over generated pictures, those of recall
    and coverage over real ones; the other side is taken as given.

    Args:
        generated: folder of at least 2 pictures.
        reference: the same, or a file of ``statistics``, which serves ``FROM_STATISTICS`` only.
        extractor: see ``load_extractor``.
        metrics: which of ``METRICS``; None is all that the reference serves.
        settings: how it is carried out.

    Raises:
        ValueError: pictures or statistics that cannot be used, or an unknown metric.
    """
    chosen = _chosen(metrics, reference)
    with Workplace(settings or EvaluateSettings()) as place:
        network = place.extractor(extractor)
        if reference.is_file():
            known = place.processes.once(lambda: _read_statistics(reference, network))
            fake = _features(place, place.folder(generated), network)
            return place.finish(lambda: _against_statistics(fake, known, chosen))
        folders = place.folder(generated), place.folder(reference)
        fake, real = (_features(place, folder, network) for folder in folders)
        return place.finish(lambda: _against_pictures(fake, real, chosen, place.settings.seed))


def statistics(
    pictures: Path,
    file: Path,
    extractor: str = "emblem-classifier",
    settings: EvaluateSettings | None = None,
) -> None:
    """Write the mean and covariance of the features of a folder, for ``distribution``.

    Raises:
        ValueError: pictures that cannot be used.
    """
    with Workplace(settings or EvaluateSettings()) as place:
        network = place.extractor(extractor)
        found = _features(place, place.folder(pictures), network)

        def write() -> None:
            moments, about = Moments.of(found.array), network.describe()
            write_statistics(file, moments, about, found.folder.fingerprint)

        place.processes.once(write)


def _chosen(metrics: Collection[str] | None, reference: Path) -> Collection[str]:
    """Which metrics to measure; raises ValueError for what there is not, or not from a file."""
    if unknown := sorted(set(metrics or ()) - set(METRICS)):
        raise ValueError(f"no metric {unknown[0]!r}; expected any of {', '.join(METRICS)}")
    if not reference.is_file():
        return METRICS if metrics is None else metrics
    served, others = " and ".join(FROM_STATISTICS), sorted(set(METRICS) - set(FROM_STATISTICS))
    if metrics is None:
        _log.warning("statistics serve %s; %s need the pictures", served, " and ".join(others))
        return FROM_STATISTICS
    if lacking := [name for name in others if name in metrics]:
        raise ValueError(
            f"statistics serve {served} only, found {lacking[0]}; give the folder of real pictures"
        )
    return metrics


def _features(place: Workplace, folder: Folder, network: Extractor) -> Features:
    found = place.features(folder, network)
    if len(found) < 2:
        raise ValueError(
            f"folder {str(folder.path)!r} holds 1 picture that can be read; at least 2 are needed "
            "to compare laws"
        )
    return found


def _read_statistics(file: Path, network: Extractor) -> Statistics:
    known, own = read_statistics(file), network.describe()
    if known.extractor is not None and (other := list(differing(known.extractor, own))):
        raise ValueError(
            f"{str(file)!r} was made in another way: {'; '.join(other)}; use the same extractor"
        )
    if len(known.moments.mean) != network.dimension:
        raise ValueError(
            f"{str(file)!r} is of {len(known.moments.mean)} features and {network.name} gives "
            f"{network.dimension}; use the same extractor"
        )
    return known


def _against_statistics(fake: Features, known: Statistics, metrics: Collection[str]) -> Result:
    scores = []
    if "fid" in metrics:
        _warn_of_few(fake)
        scores.append(fid(fake.array, known.moments))
    if "vendi" in metrics:
        scores.append(vendi(fake.array))
    return Result("distribution", _settings(fake, known.about), tuple(scores), None)


def _against_pictures(
    fake: Features, real: Features, metrics: Collection[str], seed: int
) -> Result:
    _warn_of_sizes(fake, real)
    scores: list[Score] = []
    values: dict[str, Tensor] = {}
    if "fid" in metrics:
        _warn_of_few(fake, real)
        scores.append(fid(fake.array, Moments.of(real.array)))
    if "kid" in metrics:
        scores.append(kid(fake.array, real.array))
    if "prdc" in metrics:
        found = neighbourhoods(fake.array, real.array, seed)
        scores += found.scores
        values = {"density": found.density}
    if "vendi" in metrics:
        scores.append(vendi(fake.array))
    reference = {"pictures": len(real), "fingerprint": real.folder.fingerprint}
    return Result(
        protocol="distribution",
        settings={**_settings(fake, reference), "seed": seed},
        scores=tuple(scores),
        images=single_pictures(fake.folder, values),
    )


def _settings(fake: Features, reference: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "extractor": fake.extractor.describe(),
        "pictures": len(fake),
        "reference": reference,
    }


def _warn_of_few(*sides: Features) -> None:
    for features in sides:
        if len(features) <= features.extractor.dimension:
            _log.warning(
                "%d pictures in %r are no more than the %d features of %s: FID is biased upwards, "
                "compare it only with the same number of pictures, and prefer KID",
                *(len(features), str(features.folder.path)),
                *(features.extractor.dimension, features.extractor.name),
            )


def _warn_of_sizes(fake: Features, real: Features) -> None:
    if set(fake.sizes) != set(real.sizes):
        _log.warning(
            "generated pictures are %s, real ones %s: resizing alone moves these metrics",
            *map(_named, (fake, real)),
        )


def _named(features: Features) -> str:
    (width, height), _ = features.sizes.most_common(1)[0]
    more = f" and {len(features.sizes) - 1} other sizes" if len(features.sizes) > 1 else ""
    return f"{width} x {height}{more}"
