"""Concepts learned from five photos by each method, every training in a process of its own."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from safetensors import safe_open

from apps.bench.memory import in_own_process, peak_resident
from apps.claims.concepts import CONCEPTS, Concept
from apps.claims.measure import versions
from apps.claims.networks import fingerprint
from apps.emblem.data import export_photos
from apps.emblem.pictures import draw_captions, draw_pictures
from apps.pictures import write_file
from apps.pipelines import load_pipeline
from apps.shipped import shipped
from personalize import Perfusion, TextualInversion, ZOODiP, estimate_covariance, train
from personalize.core.method import Method
from personalize.core.settings import DataSettings, TrainSettings

MODEL = "emblem-unet"
PHOTOS, PHOTO_SEED = 5, 0
_CAPTIONS = 8000
_COVARIANCE = "covariance.safetensors"


def _inverted(concept: Concept, work: Path, **settings: Any) -> Method:
    return TextualInversion(concept.word, concept.super_category, num_vectors=4, **settings)


def _perfused(concept: Concept, work: Path, **settings: Any) -> Method:
    return Perfusion(concept.word, concept.super_category, work / _COVARIANCE, **settings)


def _estimated(concept: Concept, work: Path, **settings: Any) -> Method:
    return ZOODiP(concept.word, concept.super_category, num_vectors=4, **settings)


@dataclass(frozen=True)
class Recipe:
    """How a method learns a concept.

    Attributes:
        label: in tables and plots.
        make: the method, of a concept and the folder of what concepts share.
        settings: of the method, beside the concept.
        training: of the run.
    """

    label: str
    make: Callable[..., Method]
    settings: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


_GRADIENTS = {"max_train_steps": 1000, "train_batch_size": 10, "gradient_accumulation_steps": 1}
_FORWARDS = {"max_train_steps": 1000, "train_batch_size": 5, "learning_rate": 0.05}
_UNIFORM = {**_FORWARDS, "timestep_low": 0, "timestep_high": 1000}

RECIPES = {
    "ti": Recipe("TextualInversion", _inverted, {}, {**_GRADIENTS, "learning_rate": 0.05}),
    "perfusion": Recipe("Perfusion", _perfused, {}, _GRADIENTS),
    "unlocked": Recipe("Perfusion, keys trained", _perfused, {"key_lock": False}, _GRADIENTS),
    "zoodip": Recipe("ZOODiP, int8", _estimated, {}, _FORWARDS),
    "float": Recipe("ZOODiP, float32", _estimated, {"quantize": False}, _FORWARDS),
    "whole": Recipe("ZOODiP, int8, no SG", _estimated, {"nu": 0.0}, _FORWARDS),
    "uniform": Recipe("ZOODiP, int8, no PUTS", _estimated, {}, _UNIFORM),
}


@dataclass(frozen=True)
class Learned:
    """A concept that was learned.

    Attributes:
        path: of what was written.
        bytes: of the file's tensors.
        steps: of training.
        seconds: of training, of the processor.
        memory: bytes at the peak of training with the model, beyond the loaded libraries.
    """

    path: Path
    bytes: int
    steps: int
    seconds: float
    memory: int


def learn(recipe: str, concept: Concept, work: Path) -> Learned:
    """A concept from its photos, trained unless it was with the same settings.

    Raises:
        ValueError: training fails; says why.
    """
    folder = _output(recipe, concept, work)
    about = folder / "about.json"
    settings = json.loads(json.dumps(_settings(recipe, concept)))
    if not about.is_file() or json.loads(about.read_text())["settings"] != settings:
        shutil.rmtree(folder, ignore_errors=True)
        _prepare(concept, work)
        what = f"{RECIPES[recipe].label} of {concept.word}"
        arguments = [recipe, concept.word, str(work)]
        told = json.loads(in_own_process("apps.claims.learning", arguments, what))
        write_file(about, (json.dumps({"settings": settings, **told}, indent=1) + "\n").encode())
    found = json.loads(about.read_text())
    (path,) = folder.glob("*.safetensors")
    steps = RECIPES[recipe].training["max_train_steps"]
    return Learned(path, _tensor_bytes(path), steps, found["seconds"], found["memory"])


def _prepare(concept: Concept, work: Path) -> None:
    """The concept's photos, and the covariance that all share."""
    photos, covariance = _photos(concept, work), work / _COVARIANCE
    if not photos.exists():
        export_photos(photos, concept.phrase, PHOTOS, PHOTO_SEED)
    if not covariance.exists():
        scenes = draw_pictures(_CAPTIONS // 4, PHOTO_SEED, any_share=0.0).scenes
        texts, _ = draw_captions(scenes, PHOTO_SEED, each=4)
        estimate_covariance(load_pipeline(MODEL, dtype="float32"), texts).save(covariance)


def _photos(concept: Concept, work: Path) -> Path:
    return work / "photos" / concept.word.strip("<>")


def _output(recipe: str, concept: Concept, work: Path) -> Path:
    return work / "learned" / f"{recipe}-{concept.word.strip('<>')}"


def _settings(recipe: str, concept: Concept) -> dict[str, Any]:
    """All that decides what training gives."""
    found = RECIPES[recipe]
    return {
        "phrase": concept.phrase,
        "super_category": concept.super_category,
        "settings": dict(found.settings),
        "training": dict(found.training),
        "weights": fingerprint(MODEL),
        "versions": versions(),
    }


def _tensor_bytes(path: Path) -> int:
    with safe_open(path, "pt") as file:
        return sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118


def _train(recipe: str, word: str, work: Path) -> dict[str, float]:
    """Train in this process; what it took."""
    concept = next(concept for concept in CONCEPTS if concept.word == word)
    found = RECIPES[recipe]
    method = found.make(concept, work, **found.settings)
    settings = TrainSettings(
        **found.training, checkpointing_steps=found.training["max_train_steps"]
    )
    data = DataSettings(resolution=64)
    before, start = psutil.Process().memory_info().rss, time.process_time()
    train(
        shipped(MODEL),
        method,
        _photos(concept, work),
        _output(recipe, concept, work),
        settings,
        data,
    )
    return {"seconds": time.process_time() - start, "memory": peak_resident() - before}


if __name__ == "__main__":
    logging.disable()
    print(json.dumps(_train(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
