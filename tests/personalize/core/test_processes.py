"""Two processes are one with a batch twice as large."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from personalize.core import checkpoint
from personalize.core.processes import Processes
from personalize.core.settings import DataSettings, TrainSettings
from personalize.core.trainer import train
from tests.personalize.core.conftest import Run
from tests.personalize.core.dummy import Dummy, Guess
from tests.personalize.core.test_trainer import assert_same, final, losses

LIMIT = 300
"""Seconds until two processes are taken to hang."""


def launched(count: int, device: str) -> Any:
    """What accelerate says of the last of some processes."""
    return SimpleNamespace(
        is_main_process=count == 1,
        num_processes=count,
        process_index=count - 1,
        device=torch.device(device),
    )


@pytest.mark.parametrize(
    ("count", "found", "wanted", "device"),
    [
        (1, "cuda", None, "cuda"),
        (1, "cuda", "cpu", "cpu"),
        (1, "cpu", "cuda:1", "cuda:1"),
        (2, "cuda:1", None, "cuda:1"),
        (2, "cuda:1", "cuda:0", "cuda:1"),
        (2, "cpu", "cpu", "cpu"),
    ],
)
def test_device(count: int, found: str, wanted: str | None, device: str) -> None:
    chosen = None if wanted is None else torch.device(wanted)
    assert Processes(launched(count, found), chosen).device == torch.device(device)


def test_several_processes_keep_to_their_devices() -> None:
    with pytest.raises(ValueError, match=r"that of the 2 launched processes, cuda, found 'cpu'"):
        Processes(launched(2, "cuda:1"), torch.device("cpu"))


def test_a_run_on_a_device_of_its_own(
    photo_folder: Path, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accelerate has chosen another one; all that trains is where it was asked for."""
    monkeypatch.setattr(Accelerator, "device", torch.device("meta"))
    settings, data = TrainSettings(max_train_steps=1), DataSettings(resolution=16)
    train(model, Dummy(), photo_folder, tmp_path, settings, data, device=torch.device("cpu"))
    assert len(losses(tmp_path)) == 1


def test_two_processes(run: Run, photo_folder: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    options = f"--multi_gpu --num_processes 2 --num_machines 1 --main_process_port {port}"
    quiet = "--mixed_precision no --dynamo_backend no --num_cpu_threads_per_process 1"
    launch = ["-m", "accelerate.commands.accelerate_cli", "launch", *f"{options} {quiet}".split()]
    script = ["-m", "tests.personalize.core.two_processes", str(photo_folder), str(tmp_path)]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE")
    }
    ended = subprocess.run(
        [sys.executable, *launch, *script],
        env=environment
        | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    for method, name in ((Dummy(), "whole"), (Guess(), "guess")):
        run(
            tmp_path / f"one {name}",
            method,
            data={"flip": 0.5},
            train_batch_size=2,
            gradient_accumulation_steps=3,
            ema_decay=0.5,
        )
        one, two = tmp_path / f"one {name}", tmp_path / name
        assert losses(two) == pytest.approx(losses(one), rel=1e-5)
        assert len(losses(two)) == 4
        row = "parameter/row"
        torch.testing.assert_close(final(two)[row], final(one)[row], rtol=1e-4, atol=1e-6)
    names = [path.name for path in checkpoint.checkpoints(tmp_path / "cut")]
    assert names == ["checkpoint-1.2", "checkpoint-4"]
    assert_same(tmp_path / "cut", tmp_path / "whole")
