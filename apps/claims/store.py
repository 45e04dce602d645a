"""Measured cells on disk: whole or absent, and kept for as long as their settings hold."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from apps.pictures import write_file


@dataclass(frozen=True)
class Measured:
    """A finished cell.

    Attributes:
        settings: what it was measured with.
        evaluations: denoiser evaluations per image.
        seconds: that it took.
        images: pictures (N, 3, 64, 64) as uint8.
        features: penultimate features of the classifier (N, D).
        values: per metric, one number for each picture (N,); nan where it does not apply.
        scales: guidance scale of each picture at each step (N, steps), of rules that choose it.
    """

    settings: dict[str, Any]
    evaluations: float
    seconds: float
    images: Tensor
    features: Tensor
    values: dict[str, Tensor]
    scales: Tensor | None = None


class Store:
    """Cells in a folder, two files each: ``NAME.json`` and ``NAME.safetensors``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, cell: Measured) -> None:
        """Keep a cell; its JSON comes last and makes it count."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {"images": cell.images, "features": cell.features}
        tensors |= {f"values.{key}": value for key, value in cell.values.items()}
        if cell.scales is not None:
            tensors["scales"] = cell.scales
        whole = {key: tensor.contiguous() for key, tensor in tensors.items()}
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        write_file(self.folder / f"{name}.safetensors", save(whole))
        means = {key: value.nanmean().item() for key, value in cell.values.items()}
        about = {
            "settings": cell.settings,
            "evaluations": cell.evaluations,
            "seconds": cell.seconds,
            "means": means,
        }
        write_file(self.folder / f"{name}.json", (json.dumps(about, indent=1) + "\n").encode())

    def read(self, name: str, settings: dict[str, Any]) -> Measured | None:
        """A finished cell; None if there is none that was measured with these settings."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            return None
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["settings"] != settings:
            return None
        tensors = load(path.with_suffix(".safetensors").read_bytes())
        return Measured(
            settings=settings,
            evaluations=about["evaluations"],
            seconds=about["seconds"],
            images=tensors.pop("images"),
            features=tensors.pop("features"),
            scales=tensors.pop("scales", None),
            values={key.removeprefix("values."): value for key, value in tensors.items()},
        )
