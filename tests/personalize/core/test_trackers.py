"""What a tracker is told: the numbers of ``log.jsonl``, at their steps, and the pictures."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from accelerate.utils import LoggerType

from tests.personalize.core.conftest import Run
from tests.personalize.core.test_trainer import at_loss, log


class Kept(GeneralTracker):
    """Keeps what it is told in place of a file."""

    name = "tensorboard"
    requires_logging_directory = True
    all: list[Kept]

    def __init__(self, run_name: str, logging_dir: str) -> None:
        super().__init__()
        self.run_name, self.logging_dir = run_name, Path(logging_dir)
        self.settings: dict[str, Any] = {}
        self.values: list[dict[str, float]] = []
        self.pictures: list[tuple[int, tuple[int, ...], str]] = []
        self.finished = False
        type(self).all.append(self)

    @property
    def tracker(self) -> Kept:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, float], step: int, **_: Any) -> None:
        self.values.append({"step": step, **values})

    def log_images(self, values: dict[str, np.ndarray], step: int, **options: Any) -> None:
        (pictures,) = values.values()
        self.pictures.append((step, pictures.shape, options["dataformats"]))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> list[Kept]:
    """The trackers that runs start, of which accelerate knows this one alone."""
    monkeypatch.setattr("personalize.core.settings.find_spec", lambda package: package)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "tensorboard", Kept)
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.TENSORBOARD])
    monkeypatch.setattr(Kept, "all", [], raising=False)
    return Kept.all


def test_numbers_and_pictures_come_at_their_steps(
    run: Run, tmp_path: Path, trackers: list[Kept]
) -> None:
    run(
        tmp_path,
        report_to="tensorboard",
        validation_samples=2,
        validation_steps=3,
        validation_prompt="a {}",
        num_validation_images=2,
    )
    (tracker,) = trackers
    assert tracker.values == log(tmp_path)
    assert [line["step"] for line in tracker.values if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in tracker.values if "validation_loss" in line] == [3, 4]
    assert tracker.pictures == [(3, (2, 16, 16, 3), "NHWC"), (4, (2, 16, 16, 3), "NHWC")]
    assert tracker.settings["max_train_steps"] == 4 and tracker.settings["validation_samples"] == 2
    assert (tracker.run_name, tracker.logging_dir) == ("diffusteer", tmp_path / "logs")
    assert tracker.finished


def test_a_resumed_run_goes_on_where_it_was(
    run: Run, tmp_path: Path, trackers: list[Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        at_loss(patch, 9, lambda: os.kill(os.getpid(), signal.SIGTERM))
        run(tmp_path, report_to="tensorboard")
    run(tmp_path, report_to="tensorboard", resume_from_checkpoint="latest")
    first, second = trackers
    assert [line["step"] for line in first.values] == [1, 2]
    assert [line["step"] for line in second.values] == [3, 4]
    assert first.values + second.values == log(tmp_path)


def test_nothing_is_tracked_unless_asked(run: Run, tmp_path: Path, trackers: list[Kept]) -> None:
    run(tmp_path)
    assert trackers == [] and not (tmp_path / "logs").exists()
