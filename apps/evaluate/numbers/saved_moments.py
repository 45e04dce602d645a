"""Means and covariances of reference pictures in a file, to compare with them without them."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from apps.evaluate.numbers.moments import Moments
from apps.pictures import write_file

_UNREADABLE = (OSError, EOFError, SafetensorError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Statistics:
    """Moments of features, and where they come from.

    Attributes:
        moments: of all pictures.
        extractor: what ``describe`` of the extractor says; None where the file does not tell.
        about: what results say of the reference.
    """

    moments: Moments
    extractor: Mapping[str, Any] | None
    about: Mapping[str, Any]


def write_statistics(
    path: Path, moments: Moments, extractor: Mapping[str, Any], fingerprint: str
) -> None:
    """Write a safetensors file with ``mean`` (D,) and ``covariance`` (D, D) in float64."""
    metadata = {
        "count": f"{moments.count:g}",
        "extractor": json.dumps(extractor),
        "pictures": fingerprint,
    }
    tensors = {"mean": moments.mean, "covariance": moments.covariance}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, save(tensors, metadata))


def read_statistics(path: Path) -> Statistics:
    """Read a file of ``write_statistics``, or an ``.npz`` with ``mu`` and ``sigma``.

    The latter is what pytorch-fid and the ADM evaluation suite use; it tells neither the number of
    pictures nor the extractor.

    Raises:
        ValueError: the file cannot be read, or its arrays do not fit or are not finite.
    """
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                mean, covariance = (torch.from_numpy(arrays[key]) for key in ("mu", "sigma"))
            count, extractor, own = 2.0, None, {}  # of 2 rows the scatter is the covariance
        else:
            with safe_open(path, "pt") as tensors:
                mean, covariance = (tensors.get_tensor(key) for key in ("mean", "covariance"))
                metadata = tensors.metadata()
            count, extractor = float(metadata["count"]), json.loads(metadata["extractor"])
            own = {"pictures": int(count), "fingerprint": metadata["pictures"]}
    except (*_UNREADABLE, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} holds no statistics ({error}); expected a file of `diffusteer evaluate "
            "statistics`, or an .npz with mu and sigma"
        ) from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(
            f"{str(path)!r} has a mean of shape {tuple(mean.shape)} and a covariance of "
            f"{tuple(covariance.shape)}; expected (D,) and (D, D)"
        )
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise ValueError(f"{str(path)!r} holds numbers that are not finite; make it again")
    moments = Moments(count, mean.double(), covariance.double() * (count - 1))
    file_hash = hashlib.sha256(path.read_bytes()).hexdigest()
    return Statistics(moments, extractor, own or {"file": file_hash})
