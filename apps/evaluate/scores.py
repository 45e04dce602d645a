"""Scores that are means over pictures."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

from torch import Tensor

from apps.evaluate.numbers.intervals import group_means, mean_interval
from apps.evaluate.pictures.folder import Folder
from apps.evaluate.result import Images, Score


def mean_score(
    metric: str,
    values: Tensor,
    about: str,
    *,
    groups: Sequence[Hashable] | None = None,
    over: str = "pictures",
    better: str = "higher",
    seed: int = 0,
) -> Score:
    """The mean of values (N,) with a bootstrap interval; nan is left out.

    Values that are all the same have no interval: resamples say nothing of those not seen.

    Args:
        metric, about, better: see ``Score``.
        groups: N names of what belongs together; each group counts the same, and is what the
            interval resamples.
        over: what these are, for the record.
        seed: of the resamples.
    """
    units = values.double() if groups is None else group_means(values, groups)
    known = units[~units.isnan()]
    return Score(
        metric,
        known.mean().item() if len(known) else math.nan,
        mean_interval(known, seed) if len(known.unique()) > 1 else None,
        int((~values.isnan()).sum()),
        f"{about}; interval by resampling {over}",
        better,
    )


def single_pictures(
    folder: Folder,
    values: Mapping[str, Tensor],
    texts: Sequence[str] = (),
    groups: Sequence[str] = (),
) -> Images:
    """Values (N,) of the pictures of a folder, nan as None; see ``Images``."""
    return Images(
        folder=str(folder.path),
        names=folder.names,
        values={
            name: [None if math.isnan(value) else value for value in found.tolist()]
            for name, found in values.items()
        },
        texts=tuple(texts),
        groups=tuple(groups),
    )
