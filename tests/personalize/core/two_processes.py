"""What ``test_processes`` starts twice: a run, and one that only one process is told to stop."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from personalize.core.settings import DataSettings, TrainSettings
from personalize.core.trainer import train
from tests import tiny
from tests.personalize.core.dummy import Dummy, DummyTraining, Guess


def main(photos: Path, out: Path) -> None:
    pipe, data = tiny.sd(), DataSettings(resolution=16, flip=0.5)
    settings = TrainSettings(max_train_steps=4, gradient_accumulation_steps=3, ema_decay=0.5)
    train(pipe, Dummy(), photos, out / "whole", settings, data)
    train(pipe, Guess(), photos, out / "guess", settings, data)
    loss, calls = DummyTraining.loss, [0]

    def killed(training: DummyTraining, batch: Any) -> Tensor:
        calls[0] += 1
        if calls[0] == 5 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(training, batch)

    DummyTraining.loss = killed  # type: ignore[assignment, method-assign]
    with suppress(SystemExit):
        train(pipe, Dummy(), photos, out / "cut", settings, data)
        raise AssertionError("a signal in one process must stop both")
    DummyTraining.loss = loss  # type: ignore[method-assign]
    again = settings.model_copy(update={"resume_from_checkpoint": "latest"})
    train(pipe, Dummy(), photos, out / "cut", again, data)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
