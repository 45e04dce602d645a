"""Runs of the trainer on a tiny pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from personalize.core.artifact import Artifact
from personalize.core.settings import DataSettings, TrainSettings
from personalize.core.trainer import train
from tests import tiny
from tests.personalize.core.dummy import Dummy, photos

Run = Callable[..., Artifact]


@pytest.fixture(scope="module")
def model() -> Any:
    """One pipeline for all runs of a module: each gives it back as it was."""
    return tiny.sd()


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos with masks."""
    return photos(tmp_path_factory.mktemp("photos"), masks=True)


@pytest.fixture
def run(model: Any, photo_folder: Path) -> Run:
    """``run(out, method, data=..., on_progress=..., **settings)``: four samples a step."""

    def start(out: Path, method: Any = None, data: Any = None, **settings: Any) -> Artifact:
        on_progress = settings.pop("on_progress", None)
        chosen = TrainSettings(**{"max_train_steps": 4} | settings)
        cut = DataSettings(**{"resolution": 16} | (data or {}))
        return train(model, method or Dummy(), photo_folder, out, chosen, cut, on_progress)

    return start
