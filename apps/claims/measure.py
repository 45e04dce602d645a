"""Measuring cells: pictures with the same prompts and noise in each, read by the classifier."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from apps.claims.cells import Cell, Material
from apps.claims.metrics import detail, read_values
from apps.claims.networks import fingerprint
from apps.claims.requests import Request, draw_requests
from apps.claims.scores import draw_scenes, truth_of
from apps.claims.store import Measured, Store
from apps.emblem.score import Scorer
from apps.pipelines import load_pipeline
from apps.shipped import shipped
from guidance import guide
from guidance.core.report import Report

BATCH = 64
SCORED = 5000
"""Added to the seed for the renders that are scored."""
CALL = {"emblem-dit": {"max_sequence_length": 16}}
"""Arguments of the call beside prompts, steps and noise, by model."""

OnPictures = Callable[[int], None]
"""Called with the number of pictures of the cell that are made."""


def versions() -> dict[str, str]:
    """Of everything that decides what the pictures are."""
    packages = ("diffusteer", "torch", "diffusers", "transformers", "numpy")
    return {name: version(name) for name in packages} | {"python": platform.python_version()}


class Bench:
    """Measures cells into a store and keeps what is measured already.

    Args:
        store: where finished cells are.
        images: pictures in each cell.
        seed: of prompts and noise; picture i has noise of ``seed + i`` in every cell.
    """

    def __init__(self, store: Store, images: int, seed: int) -> None:
        self.store, self.images, self.seed = store, images, seed
        self.requests = lru_cache(lambda name: draw_requests(name, images, seed))
        self.pipeline = lru_cache(1)(lambda model: load_pipeline(model, dtype="float32"))

    @cached_property
    def scorer(self) -> Scorer:
        """The classifier that reads the pictures."""
        return Scorer.from_pretrained(shipped("emblem-classifier"))

    def settings(self, cell: Cell) -> dict[str, Any]:
        """All that decides what a cell's measurement gives."""
        networks = {name: fingerprint(name) for name in cell.networks}
        return {
            "model": cell.model,
            "weights": fingerprint(cell.model),
            "rule": cell.rule,
            "prompts": cell.prompts,
            "negative": cell.negative,
            "steps": cell.steps,
            "images": self.images,
            "batch": BATCH,
            "seed": self.seed,
            "versions": versions(),
            **({"networks": networks} if networks else {}),
        }

    def find(self, cell: Cell) -> Measured | None:
        """A finished cell with the settings of now, if there is one."""
        return self.store.read(cell.name, self.settings(cell))

    def measure(self, cell: Cell, on_pictures: OnPictures) -> Measured:
        """Measure a cell and keep it."""
        measured = self._scored(cell) if cell.score else self._drawn(cell, on_pictures)
        self.store.write(cell.name, measured)
        return measured

    def _scored(self, cell: Cell) -> Measured:
        """Fresh renders, scored."""
        assert cell.score is not None
        start = time.perf_counter()
        pixels, scenes = draw_scenes(self.images, self.seed + SCORED)
        pipe = self.pipeline(cell.model)
        scores = torch.cat([cell.score(pipe, part) for part in pixels.split(BATCH)])
        return Measured(
            settings=self.settings(cell),
            evaluations=0.0,
            seconds=time.perf_counter() - start,
            images=pixels.add(1).mul(127.5).round().byte(),
            features=self.scorer.features(pixels),
            values={"score": scores.float(), **truth_of(scenes)},
        )

    def _drawn(self, cell: Cell, on_pictures: OnPictures) -> Measured:
        """Pictures of the cell's requests, read."""
        requests = self.requests(cell.prompts)
        start = time.perf_counter()
        images, evaluations, scales = self._pictures(cell, requests, on_pictures)
        seconds = time.perf_counter() - start
        pixels = images.float().div(127.5).sub(1)
        reading = self.scorer.read(pixels)
        return Measured(
            settings=self.settings(cell),
            evaluations=evaluations,
            seconds=seconds,
            images=images,
            features=reading.features,
            values=read_values(reading, requests) | {"detail": detail(pixels)},
            scales=scales,
        )

    def _pictures(
        self, cell: Cell, requests: Sequence[Request], on_pictures: OnPictures
    ) -> tuple[Tensor, float, Tensor | None]:
        """uint8 pictures (N, 3, 64, 64), evaluations for each, and scales chosen for each."""
        pipe = self.pipeline(cell.model)
        images, scales, evaluations = [], [], 0.0
        on_pictures(0)
        for start in range(0, len(requests), BATCH):
            batch = requests[start : start + BATCH]
            negatives = tuple(request.negative for request in batch)
            seeds = range(self.seed + start, self.seed + start + len(batch))
            rule = cell.build(Material(pipe, negatives, fingerprint(cell.model), self.store.folder))
            with guide(pipe, rule) as run:
                made = pipe(
                    prompt=[request.prompt for request in batch],
                    negative_prompt=list(negatives) if cell.negative else None,
                    num_inference_steps=cell.steps,
                    guidance_scale=2.0,  # asks for unconditional rows; the rule has its own scale
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                    output_type="pt",
                    **CALL.get(cell.model, {}),
                ).images
            images.append(made.mul(255).round().byte().cpu())
            scales.append(chosen_scales(run.report))
            evaluations += run.report.nfe * len(batch) / len(requests)
            on_pictures(start + len(batch))
        chosen = [part for part in scales if part is not None]
        return torch.cat(images), evaluations, torch.cat(chosen) if chosen else None


def chosen_scales(report: Report) -> Tensor | None:
    """Scale of each picture at each call (N, calls), if a rule chose them picture by picture."""
    scales = [record.scale for record in report.steps]
    if not all(isinstance(each, list) for each in scales):
        return None
    return torch.tensor([[math.nan if s is None else s for s in each] for each in scales]).T
