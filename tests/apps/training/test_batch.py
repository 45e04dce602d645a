"""Several processes are one process: slices of a batch, averaged gradients, a shared stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from apps.training.batch import Batch, average, gathered
from apps.training.contrastive import contrastive_loss
from apps.training.state import Recipe
from apps.training.trainer import train

LIMIT = 300
"""Seconds until two processes are taken to hang."""

RECIPE = Recipe(steps=8, batch=8, lr=1e-2, warmup=2, ema=0.9)


@pytest.mark.parametrize("processes", [2, 4])
def test_slices_are_the_batch_of_one_process(processes: int) -> None:
    def draws(process: int, processes: int) -> list[Tensor]:
        batch = Batch(3, 5, 8, 100, process, processes)
        return [batch.indices, batch.randn(2), batch.rand(), batch.randint(9, 2, 2)]

    parts = [draws(process, processes) for process in range(processes)]
    for whole, *slices in zip(draws(0, 1), *parts, strict=True):
        assert torch.equal(torch.cat(slices), whole)


def test_nothing_is_exchanged_by_one_process() -> None:
    rows = torch.ones(2, requires_grad=True)
    assert gathered(rows) is rows
    average([rows])
    assert torch.equal(rows, torch.ones(2))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.picture, self.text = nn.Linear(6, 4), nn.Linear(6, 4)
        self.scale = nn.Parameter(torch.tensor(2.0))


def mean_loss(model: nn.Module, batch: Batch) -> Tensor:
    assert isinstance(model, Network)
    return (model.picture(batch.randn(6)).sum(1) - batch.indices / 10).square().mean()


def pairs_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Each item is compared with those of all processes."""
    assert isinstance(model, Network)
    x = batch.randn(6)
    texts, captions = gathered(model.text(x)), gathered(batch.indices)
    same = (captions[:, None] == captions[None, :]).float()
    return contrastive_loss(gathered(model.picture(x)), texts, model.scale, same)


LOSSES = {"mean": mean_loss, "pairs": pairs_loss}


def _work(rank: int, port: int, folder: Path) -> None:
    """One of two processes; the second one is told to stop within the fourth step."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    from accelerate import PartialState

    PartialState(cpu=True)
    for name, loss in LOSSES.items():
        calls: list[int] = []

        def told(model: nn.Module, batch: Batch, loss=loss, calls=calls) -> Tensor:  # type: ignore[no-untyped-def]
            calls.append(len(calls))
            if rank == 1 and len(calls) == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return loss(model, batch)

        with pytest.raises(KeyboardInterrupt):
            train(Network(), told, RECIPE, 5, folder / name, seed=1)
        assert len(calls) == 4
        model = train(Network(), loss, RECIPE, 5, folder / name, seed=1)
        save_file(model.state_dict(), folder / f"{name}-{rank}.safetensors")
    with pytest.raises(ValueError, match="a batch of 7 cannot be dealt out to 2 processes"):
        train(Network(), mean_loss, Recipe(steps=1, batch=7, lr=1e-2), 5, folder / "odd", seed=1)
    with pytest.raises(FloatingPointError, match="nan at step 0"):
        train(
            Network(),
            lambda model, batch: mean_loss(model, batch) * (float("nan") if rank else 1.0),
            RECIPE,
            5,
            folder / "nan",
            seed=1,
        )


def test_two_processes_are_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    start = multiprocessing.get_context("spawn").Process
    workers = [start(target=_work, args=(rank, port, tmp_path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LIMIT)
    for worker in workers:
        worker.kill()
    assert [worker.exitcode for worker in workers] == [0, 0]
    for name, loss in LOSSES.items():
        alone = train(Network(), loss, RECIPE, 5, tmp_path / f"{name}-alone", seed=1)
        for rank in range(2):
            shared = load_file(tmp_path / f"{name}-{rank}.safetensors")
            for key, value in alone.state_dict().items():
                torch.testing.assert_close(shared[key], value, rtol=0, atol=2e-5)
