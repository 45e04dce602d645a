"""Arrays of features (N, D), read block by block in float64, and what they must be."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray | Tensor
"""An array (N, D) of any float dtype; also one that lies on disk (``numpy.memmap``)."""

BLOCK = 1024


def blocks(features: Array) -> Iterator[Tensor]:
    """Rows of features (N, D) in order, ``BLOCK`` at a time, in float64 on the CPU."""
    for start in range(0, len(features), BLOCK):
        part = features[start : start + BLOCK]
        if isinstance(part, Tensor):
            yield part.detach().to("cpu", torch.float64)
        else:
            yield torch.from_numpy(np.array(part, dtype=np.float64))


def check_pair(real: Array, fake: Array) -> None:
    """Raise ValueError unless both are finite (N, D) of the same D, with N from 2 up."""
    check("real", real, least=2)
    check("fake", fake, least=2)
    check_widths("real", real, "fake", fake)


def check(name: str, features: Array, least: int = 1) -> None:
    """Raise ValueError unless features are finite (N, D) with N from ``least`` up."""
    shape = tuple(np.shape(features))
    if len(shape) != 2 or not shape[1]:
        raise ValueError(f"{name} has shape {shape}; expected (pictures, features)")
    if shape[0] < least:
        raise ValueError(f"{name} needs at least {least} rows, found {shape[0]}")
    bad = sum(int((~x.isfinite()).any(1).sum()) for x in blocks(features))
    if bad:
        raise ValueError(
            f"{bad} of {shape[0]} feature rows of {name} are not finite; leave out their pictures"
        )


def check_widths(first: str, a: Array, second: str, b: Array) -> None:
    """Raise ValueError unless two arrays have the same number of features."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{first} has {a.shape[1]} features and {second} {b.shape[1]}; "
            "both must come from one extractor"
        )


def check_directions(name: str, features: Array) -> None:
    """Raise ValueError unless features are finite (N, D) and no row is zero."""
    check(name, features)
    zeros = sum(int((x.norm(dim=1) == 0).sum()) for x in blocks(features))
    if zeros:
        raise ValueError(
            f"{zeros} of {len(features)} rows of {name} are zero and have no cosine; "
            "leave out their pictures"
        )


def units(name: str, features: Array) -> Tensor:
    """Rows divided by their norms, all at once; raises as ``check_directions``."""
    check_directions(name, features)
    return torch.cat([unit(x) for x in blocks(features)])


def unit(x: Tensor) -> Tensor:
    """Rows (N, D) divided by their norms."""
    return x / x.norm(dim=1, keepdim=True)
