"""The loop: what a step is, and that a run is the same however it is cut up."""

from __future__ import annotations

import json
import math
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from personalize.core import checkpoint
from personalize.core.artifact import Artifact
from personalize.core.images import Item
from personalize.core.logbook import Progress
from personalize.core.settings import DataSettings, TrainSettings
from personalize.core.trainer import train
from tests import tiny
from tests.personalize.core.conftest import Run
from tests.personalize.core.dummy import Dummy, DummyTraining, Guess

LIVELY: dict[str, Any] = {
    "ema_decay": 0.8,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 1,
    "adam_weight_decay": 0.1,
    "snr_gamma": 5.0,
    "validation_samples": 2,
    "validation_steps": 2,
    "checkpointing_steps": 3,
}
VARIED: dict[str, Any] = {"crop": "random", "flip": 0.5}


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in log(out) if "loss" in line]


def file(out: Path) -> dict[str, Any]:
    """Tensors and metadata of what was written."""
    with safe_open(out / "learned_embeds.safetensors", "pt") as opened:
        tensors = {name: opened.get_tensor(name).tolist() for name in opened.keys()}  # noqa: SIM118
        return tensors | {"metadata": opened.metadata()}


def final(out: Path) -> dict[str, torch.Tensor]:
    found = checkpoint.latest(out)
    assert found is not None
    return dict(found[1].tensors)


def assert_same(out: Path, other: Path) -> None:
    """Two runs to the bit: the file, everything in the last state, and the log."""
    assert file(out) == file(other)
    ours, theirs = final(out), final(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert log(out) == log(other)


def at_loss(monkeypatch: pytest.MonkeyPatch, number: int, do: Callable[[], object]) -> None:
    """Let something happen in the ``number``-th loss of the next run."""
    calls, loss = [0], DummyTraining.loss

    def counted(training: DummyTraining, batch: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == number:
            do()
        return loss(training, batch)

    monkeypatch.setattr(DummyTraining, "loss", counted)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[DummyTraining]:
    """The trainings that runs start."""
    started: list[DummyTraining] = []
    make = DummyTraining.__init__

    def kept(training: DummyTraining, *arguments: Any) -> None:
        make(training, *arguments)
        started.append(training)

    monkeypatch.setattr(DummyTraining, "__init__", kept)
    return started


@pytest.fixture(scope="module")
def whole(model: Any, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole")
    settings = TrainSettings(max_train_steps=4, **LIVELY)
    train(model, Dummy(), photo_folder, out, settings, DataSettings(resolution=16, **VARIED))
    return out


class TestResume:
    @pytest.mark.parametrize("calls", [2, 4, 7, 15])
    def test_stopped_anywhere(
        self, run: Run, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
    ) -> None:
        """Losses 2, 7 and 15 are within an accumulation of four, 4 is the last one of it."""
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as left:
            at_loss(patch, calls, lambda: os.kill(os.getpid(), signal.SIGTERM))
            run(tmp_path, data=VARIED, **LIVELY)
        assert left.value.code == 143
        newest = checkpoint.checkpoints(tmp_path)[-1]
        assert newest.name == {2: "checkpoint-0.2", 4: "checkpoint-1", 7: "checkpoint-1.3"}.get(
            calls, "checkpoint-3.1"
        )
        run(tmp_path, data=VARIED, **LIVELY, resume_from_checkpoint="latest")
        assert_same(tmp_path, whole)

    def test_stopped_twice_in_a_step(
        self, run: Run, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for _ in range(3):
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                at_loss(patch, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
                run(tmp_path, data=VARIED, **LIVELY, resume_from_checkpoint="latest")
        names = [path.name for path in checkpoint.checkpoints(tmp_path)]
        assert names == ["checkpoint-0.1", "checkpoint-0.2", "checkpoint-0.3"]
        run(tmp_path, data=VARIED, **LIVELY, resume_from_checkpoint="latest")
        assert_same(tmp_path, whole)

    def test_longer(self, run: Run, tmp_path: Path) -> None:
        """A constant rate does not depend on the length of the run."""
        run(tmp_path / "a", max_train_steps=2, ema_decay=0.5)
        run(tmp_path / "a", max_train_steps=5, ema_decay=0.5, resume_from_checkpoint="latest")
        run(tmp_path / "b", max_train_steps=5, ema_decay=0.5)
        assert_same(tmp_path / "a", tmp_path / "b")

    def test_own_steps(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run(tmp_path / "whole", Guess())
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            at_loss(patch, 11, lambda: os.kill(os.getpid(), signal.SIGTERM))
            run(tmp_path / "cut", Guess())
        run(tmp_path / "cut", Guess(), resume_from_checkpoint="checkpoint-2")
        assert_same(tmp_path / "cut", tmp_path / "whole")
        assert losses(tmp_path / "cut")[-1] != losses(tmp_path / "cut")[0]

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"learning_rate": 0.5}, "train.learning_rate 0.01 -> 0.5"),
            ({"seed": 1, "snr_gamma": 2.0}, "train.snr_gamma None -> 2.0, train.seed 0 -> 1"),
            ({"gradient_accumulation_steps": 2}, "train.gradient_accumulation_steps 4 -> 2"),
            ({"max_train_steps": 3, "lr_scheduler": "linear"}, "train.max_train_steps 1 -> 3"),
            ({"data": {"flip": 0.1}}, "data.flip 0.0 -> 0.1"),
            ({"method": Dummy(0.3)}, "method.start_at 0.1 -> 0.3"),
            ({"method": Guess()}, "method.name dummy -> guess"),
        ],
    )
    def test_another_run(
        self, run: Run, tmp_path: Path, changes: dict[str, Any], reason: str
    ) -> None:
        run(tmp_path, max_train_steps=1)
        before = final(tmp_path)
        with pytest.raises(ValueError, match="is of another run") as refused:
            run(tmp_path, **{"max_train_steps": 1, "resume_from_checkpoint": "latest"} | changes)
        assert reason in str(refused.value)
        assert "\n" not in str(refused.value)
        assert all(torch.equal(final(tmp_path)[name], before[name]) for name in before)

    def test_another_model_other_photos_other_versions(
        self,
        run: Run,
        model: Any,
        photo_folder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        run(tmp_path, max_train_steps=1)
        again = TrainSettings(max_train_steps=1, resume_from_checkpoint="latest")
        other = tiny.sd()
        with torch.no_grad():
            other.unet.conv_in.weight[0] += 1
        with pytest.raises(ValueError, match=r"another run \(base "):
            train(other, Dummy(), photo_folder, tmp_path, again, DataSettings(resolution=16))
        fewer = tmp_path / "fewer"
        fewer.mkdir()
        (fewer / "0.png").write_bytes((photo_folder / "0.png").read_bytes())
        with pytest.raises(ValueError, match=r"another run \(photos "):
            train(model, Dummy(), fewer, tmp_path, again, DataSettings(resolution=16))
        monkeypatch.setattr("personalize.core.identity.version", lambda package: f"{package} 99")
        with pytest.raises(ValueError, match=r"versions\.torch .* -> torch 99"):
            train(model, Dummy(), photo_folder, tmp_path, again, DataSettings(resolution=16))

    def test_what_may_change(self, run: Run, tmp_path: Path) -> None:
        run(tmp_path, max_train_steps=1)
        run(
            tmp_path,
            max_train_steps=2,
            checkpointing_steps=1,
            checkpoints_total_limit=1,
            validation_samples=1,
            resume_from_checkpoint="latest",
        )
        assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["checkpoint-2"]

    def test_a_folder_in_use(self, run: Run, tmp_path: Path) -> None:
        run(tmp_path, max_train_steps=2, checkpointing_steps=1)
        with pytest.raises(ValueError, match="holds checkpoint-2 of a run; resume it with"):
            run(tmp_path)
        with pytest.raises(ValueError, match="holds checkpoint-2, which is later than"):
            run(tmp_path, resume_from_checkpoint="checkpoint-1")
        with pytest.raises(ValueError, match=r"checkpoint-7' does not exist"):
            run(tmp_path, resume_from_checkpoint="checkpoint-7")
        run(
            tmp_path / "copy",
            max_train_steps=2,
            resume_from_checkpoint=str(tmp_path / "checkpoint-1"),
        )
        assert file(tmp_path / "copy")["<dummy>"] == file(tmp_path)["<dummy>"]


class TestSteps:
    def test_accumulation_is_a_larger_batch(self, run: Run, tmp_path: Path) -> None:
        few = run(tmp_path / "a", train_batch_size=1, gradient_accumulation_steps=4, data=VARIED)
        many = run(tmp_path / "b", train_batch_size=4, gradient_accumulation_steps=1, data=VARIED)
        torch.testing.assert_close(few.tensors["clip_l"], many.tensors["clip_l"])
        assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), rel=1e-5)

    @pytest.mark.parametrize("method", [Dummy(), Guess()])
    def test_out_of_memory(
        self,
        run: Run,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        method: Any,
    ) -> None:
        """Batches of 8 do not fit from the second step on: 2 do, with 16 samples a step still."""
        settings: dict[str, Any] = {"max_train_steps": 3, "checkpointing_steps": 2}
        with monkeypatch.context() as patch:
            _too_large(patch, from_step=0)
            run(
                tmp_path / "a",
                method,
                train_batch_size=8,
                gradient_accumulation_steps=2,
                **settings,
            )
        assert [r.message.split(":")[1].split(" from")[0] for r in caplog.records] == [
            " batches of 4",
            " batches of 2",
        ]
        run(tmp_path / "b", method, train_batch_size=2, gradient_accumulation_steps=8, **settings)
        ours, theirs = final(tmp_path / "a"), final(tmp_path / "b")
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert losses(tmp_path / "a") == losses(tmp_path / "b")

    def test_out_of_memory_and_resume(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings: dict[str, Any] = {"train_batch_size": 8, "gradient_accumulation_steps": 1}
        with monkeypatch.context() as patch:
            _too_large(patch, from_step=1)
            run(tmp_path / "whole", **settings)
            with pytest.raises(SystemExit):
                at_loss(patch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
                run(tmp_path / "cut", **settings)
        assert checkpoint.checkpoints(tmp_path / "cut")[-1].name == "checkpoint-1.4"
        run(tmp_path / "cut", **settings, resume_from_checkpoint="latest")
        assert_same(tmp_path / "cut", tmp_path / "whole")

    def test_one_sample_is_too_much(
        self, run: Run, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def exhausted() -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

        at_loss(monkeypatch, 1, exhausted)
        with pytest.raises(torch.OutOfMemoryError):
            run(tmp_path)

    def test_other_errors_are_no_lack_of_memory(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wrong() -> None:
            raise RuntimeError("shapes do not match")

        at_loss(monkeypatch, 1, wrong)
        with pytest.raises(RuntimeError, match="shapes do not match"):
            run(tmp_path, train_batch_size=4)

    @pytest.mark.parametrize("limit", [None, 0.2])
    def test_a_step_by_hand(
        self, run: Run, tmp_path: Path, trainings: list[DummyTraining], limit: float | None
    ) -> None:
        """Mean gradient, clipping, AdamW and the running mean, from their equations."""
        trained = run(
            tmp_path,
            train_batch_size=2,
            gradient_accumulation_steps=2,
            max_train_steps=5,
            learning_rate=0.1,
            lr_scheduler="linear",
            adam_beta1=0.7,
            adam_beta2=0.8,
            adam_epsilon=1e-3,
            adam_weight_decay=0.3,
            max_grad_norm=limit,
            ema_decay=0.6,
        )
        run(tmp_path / "start", max_train_steps=1, learning_rate=1e-30)
        (batches, row) = trainings[0].batches, trainings[1].parameters["row"].detach().double()[0]
        m, v, mean = torch.zeros(8).double(), torch.zeros(8).double(), None
        row, logged = row.clone(), log(tmp_path)
        for step in range(5):
            gradient, loss = torch.zeros(8).double(), 0.0
            for batch in batches[2 * step : 2 * step + 2]:
                for noisy, target in zip(batch.noisy.double(), batch.target.double(), strict=True):
                    error = row[:4, None, None] * noisy + row[4:8, None, None] - target
                    loss += float(error.square().mean()) / 4
                    gradient[:4] += (2 * error * noisy).sum((1, 2)) / error.numel() / 4
                    gradient[4:] += (2 * error).sum((1, 2)) / error.numel() / 4
            norm = float(gradient.norm())
            gradient *= min(1.0, (limit or math.inf) / norm)
            m = 0.7 * m + 0.3 * gradient
            v = 0.8 * v + 0.2 * gradient.square()
            rate = 0.1 * (1 - step / 5)
            row *= 1 - rate * 0.3
            scale = (v / (1 - 0.8 ** (step + 1))).sqrt() + 1e-3
            row[:8] -= rate * m / (1 - 0.7 ** (step + 1)) / scale
            decay = min(0.6, (1 + step) / (10 + step)) if step else 0.0
            mean = row.clone() if mean is None else decay * mean + (1 - decay) * row
            assert logged[step]["rate"] == pytest.approx(rate)
            assert logged[step]["loss"] == pytest.approx(loss, rel=1e-4)
            assert logged[step]["gradient_norm"] == pytest.approx(norm, rel=1e-4)
        assert mean is not None
        torch.testing.assert_close(trained.tensors["clip_l"][0], mean.float(), rtol=1e-4, atol=1e-5)
        last = final(tmp_path)["parameter/row"][0]
        torch.testing.assert_close(last, row.float(), rtol=1e-4, atol=1e-5)

    def test_groups_and_absent_gradients(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(DummyTraining, "groups", {"row": 0.25}, raising=False)
        run(tmp_path / "a", learning_rate=0.04)
        monkeypatch.setattr(DummyTraining, "groups", {})
        run(tmp_path / "b", learning_rate=0.01)
        ours, theirs = final(tmp_path / "a"), final(tmp_path / "b")
        assert torch.equal(ours["parameter/row"], theirs["parameter/row"])
        make = DummyTraining.__init__

        def wider(training: DummyTraining, *arguments: Any) -> None:
            make(training, *arguments)
            training.parameters["unused"] = torch.nn.Parameter(torch.ones(2))

        monkeypatch.setattr(DummyTraining, "__init__", wider)
        run(tmp_path / "c", learning_rate=0.01)
        assert torch.equal(final(tmp_path / "c")["parameter/row"], theirs["parameter/row"])
        assert torch.equal(final(tmp_path / "c")["parameter/unused"], torch.ones(2))

    def test_masked_loss(self, run: Run, tmp_path: Path, trainings: list[DummyTraining]) -> None:
        """Photos are masked in their upper half: the lower half of the error does not count."""
        run(tmp_path, max_train_steps=1, masked_loss=True, gradient_accumulation_steps=1)
        (batch,) = trainings[0].batches
        prediction = torch.randn(batch.target.shape, generator=torch.Generator().manual_seed(1))
        rows = batch.target.shape[-2] // 2
        upper = (prediction - batch.target)[..., :rows, :].square().flatten(1).mean(1)
        torch.testing.assert_close(batch.error(prediction), upper)
        assert not torch.allclose(upper, (prediction - batch.target).square().flatten(1).mean(1))

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_mixed_precision(
        self, run: Run, tmp_path: Path, precision: str, trainings: list[DummyTraining]
    ) -> None:
        run(tmp_path, mixed_precision=precision)
        assert trainings[0].parameters["row"].dtype == torch.float32
        assert losses(tmp_path)[-1] < losses(tmp_path)[0] * 1.5

    def test_loss_scale(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A gradient that overflows in float16 skips steps, and is an error after ten of them."""
        loss, bad = DummyTraining.loss, [3]

        def overflowing(training: DummyTraining, batch: Any) -> torch.Tensor:
            steep = training.parameters["row"].sum() * 0
            value = loss(training, batch)
            return value + steep.sqrt() if batch.step < bad[0] else value

        monkeypatch.setattr(DummyTraining, "loss", overflowing)
        run(tmp_path / "a", mixed_precision="fp16", gradient_accumulation_steps=1)
        found = checkpoint.latest(tmp_path / "a")
        assert found is not None
        assert found[1].record["steps"]["scaler"]["scale"] == 65536.0 / 8
        bad[0] = 100
        with pytest.raises(FloatingPointError, match="gradient's norm is nan at step 10,"):
            run(tmp_path / "b", mixed_precision="fp16", max_train_steps=20)


class TestNotFinite:
    """It stops within the step, names it and the files, and writes nothing of it."""

    @pytest.fixture(autouse=True)
    def nothing_bad_written(self, tmp_path: Path) -> Iterator[None]:
        yield
        for path in tmp_path.rglob("*.safetensors"):
            assert all(bool(tensor.isfinite().all()) for tensor in load_file(path).values())
        for path in tmp_path.rglob("*"):
            assert not path.name.endswith((".tmp", ".old"))
            if path.suffix in (".json", ".jsonl"):
                assert "NaN" not in path.read_text()
                assert "Infinity" not in path.read_text()

    def test_photo(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        load = Item.load

        def spoiled(item: Item, *arguments: Any) -> Any:
            picture = load(item, *arguments)
            if item.name == "1.png":
                picture.pixels[0, 0, 0] = math.nan
            return picture

        monkeypatch.setattr(Item, "load", spoiled)
        with pytest.raises(FloatingPointError, match=r"photo 1\.png"):
            run(tmp_path)
        assert not checkpoint.checkpoints(tmp_path)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_weights_of_the_model(self, run: Run, model: Any, tmp_path: Path, value: float) -> None:
        weight = model.vae.quant_conv.weight
        kept = weight[0, 0, 0, 0].item()
        with torch.no_grad():
            weight[0, 0, 0, 0] = value
            try:
                with pytest.raises(FloatingPointError, match=r"the latents of 0\.png"):
                    run(tmp_path)
            finally:
                weight[0, 0, 0, 0] = kept

    def test_loss(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[Any] = []
        loss = DummyTraining.loss

        def spoiled(training: DummyTraining, batch: Any) -> torch.Tensor:
            seen.append(batch)
            return loss(training, batch) * (math.nan if len(seen) == 10 else 1)

        monkeypatch.setattr(DummyTraining, "loss", spoiled)
        with pytest.raises(FloatingPointError, match="the loss is nan at step 3, photos") as error:
            run(tmp_path, checkpointing_steps=1)
        assert len(seen) == 10
        assert f"photos {seen[-1].files};" in str(error.value)
        assert checkpoint.checkpoints(tmp_path)[-1].name == "checkpoint-2"

    def test_gradient(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        loss = DummyTraining.loss

        def spoiled(training: DummyTraining, batch: Any) -> torch.Tensor:
            steep = (training.parameters["row"].sum() * 0).sqrt() if batch.step == 1 else 0
            return loss(training, batch) + steep

        monkeypatch.setattr(DummyTraining, "loss", spoiled)
        with pytest.raises(FloatingPointError, match="norm is nan at step 2, photos") as error:
            run(tmp_path, checkpointing_steps=1)
        assert ".png" in str(error.value)
        assert checkpoint.checkpoints(tmp_path)[-1].name == "checkpoint-1"

    @pytest.mark.parametrize("method", [Dummy(), Guess()])
    def test_parameters(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any
    ) -> None:
        after = DummyTraining.after_step

        def spoiled(training: DummyTraining, step: int) -> Any:
            if step == 2:
                training.parameters["row"].data[0, 20] = math.inf
            return after(training, step) if step != 2 else {}

        monkeypatch.setattr(DummyTraining, "after_step", spoiled)
        found = "parameter row is not finite at step 2, photos .*png"
        with pytest.raises(FloatingPointError, match=found):
            run(tmp_path, method, checkpointing_steps=1)
        assert checkpoint.checkpoints(tmp_path)[-1].name == "checkpoint-1"
        assert len(losses(tmp_path)) == 1

    def test_state_of_the_method(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state = {"seen": torch.tensor([math.nan])}
        monkeypatch.setattr(DummyTraining, "state", lambda training: state)
        with pytest.raises(FloatingPointError, match="method/seen"):
            run(tmp_path)
        assert not checkpoint.checkpoints(tmp_path)


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("phase", ["encoding", "training", "saving", "validating"])
    def test_every_phase(
        self, run: Run, tmp_path: Path, phase: str, number: signal.Signals
    ) -> None:
        settings: dict[str, Any] = {
            "max_train_steps": 4,
            "checkpointing_steps": 2,
            "validation_steps": 2,
            "validation_samples": 1,
        }
        handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

        def kill(progress: Progress) -> None:
            if progress.phase == phase:
                os.kill(os.getpid(), number)

        with pytest.raises((KeyboardInterrupt, SystemExit)) as left:
            run(tmp_path, on_progress=kill, **settings)
        assert left.type is (KeyboardInterrupt if number == signal.SIGINT else SystemExit)
        if isinstance(left.value, SystemExit):
            assert left.value.code == 143
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
        names = [path.name for path in checkpoint.checkpoints(tmp_path)]
        expected = {"encoding": [], "training": ["checkpoint-1"]}
        assert names == expected.get(phase, ["checkpoint-2"])
        run(tmp_path, resume_from_checkpoint="latest", **settings)
        run(tmp_path / "whole", **settings)
        assert file(tmp_path) == file(tmp_path / "whole")

    def test_while_pictures_are_drawn(self, run: Run, model: Any, tmp_path: Path) -> None:
        drawn: list[int] = []
        call = type(model).__call__

        def interrupted(self: Any, *arguments: Any, **options: Any) -> Any:
            drawn.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
            return call(self, *arguments, **options | {"num_inference_steps": 1})

        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(type(model), "__call__", interrupted)
            run(tmp_path, max_train_steps=1, validation_prompt="a {}")
        assert drawn == [1]
        assert not list((tmp_path / "validation").glob("*"))
        assert checkpoint.checkpoints(tmp_path)[-1].name == "checkpoint-1"
        assert "<dummy>" not in model.tokenizer.get_vocab()


class TestBorrowed:
    def picture(self, model: Any) -> dict[str, Any]:
        """All that can be seen of a pipeline."""
        seen: dict[str, Any] = {"vocabulary": model.tokenizer.get_vocab(), "scheduler": {}}
        seen["scheduler"] = {
            k: v.tolist() if hasattr(v, "tolist") else v for k, v in vars(model.scheduler).items()
        }
        seen["components"] = {name: id(part) for name, part in model.components.items()}
        seen["own"] = {k: v for k, v in vars(model).items() if k not in model.components}
        for name in ("unet", "vae", "text_encoder"):
            part = getattr(model, name)
            seen[name] = {k: (v.dtype, v.numpy().tobytes()) for k, v in part.state_dict().items()}
            seen[f"{name} grads"] = [
                (k, v.requires_grad, v.grad) for k, v in part.named_parameters()
            ]
            seen[f"{name} modes"] = [(k, m.training) for k, m in part.named_modules()]
            seen[f"{name} hooks"] = [
                (k, len(m._forward_hooks), len(m._forward_pre_hooks))
                for k, m in part.named_modules()
            ]
        seen["checkpointing"] = model.unet.is_gradient_checkpointing
        return seen

    @pytest.mark.parametrize("fails", [False, True])
    def test_is_given_back(
        self, run: Run, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
    ) -> None:
        monkeypatch.setattr("personalize.core.validation.STEPS", 2)
        model.unet.train()
        model.unet.conv_in.eval()
        model.vae.quant_conv.weight.requires_grad_(False)
        before = self.picture(model)
        randomness = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index]
        if fails:
            monkeypatch.setattr(DummyTraining, "after_step", lambda *_: 1 / 0)
        try:
            run(
                tmp_path,
                max_train_steps=2,
                gradient_checkpointing=True,
                validation_prompt="a {}",
                num_validation_images=1,
                validation_steps=1,
            )
        except ZeroDivisionError:
            assert fails
        assert self.picture(model) == before
        assert torch.equal(torch.get_rng_state(), randomness[0])
        assert np.random.get_state()[1].tolist() == randomness[1]  # type: ignore[index]
        assert random.getstate() == randomness[2]
        model.unet.eval()

    def test_is_frozen_in_between(
        self, run: Run, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def look() -> None:
            for part in (model.unet, model.vae, model.text_encoder):
                assert not any(weight.requires_grad for weight in part.parameters())
                assert not any(module.training for module in part.modules())
            assert model.unet.is_gradient_checkpointing

        at_loss(monkeypatch, 1, look)
        run(tmp_path, max_train_steps=1, gradient_checkpointing=True)

    def test_offloaded(self, photo_folder: Path, tmp_path: Path) -> None:
        offloaded = tiny.sd()
        offloaded.unet.to("meta")
        with pytest.raises(ValueError, match="unet of the pipeline is offloaded; call"):
            train(offloaded, Dummy(), photo_folder, tmp_path, data=DataSettings(resolution=16))

    def test_a_resolution_between_two_latents(
        self, model: Any, photo_folder: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        problem = "multiple of 2 for StableDiffusionPipeline, found 17; choose 16 or 18"
        with pytest.raises(ValueError, match=problem):
            train(model, Dummy(), photo_folder, out, data=DataSettings(resolution=17))
        assert not out.exists()


class TestToldAndWritten:
    def test_progress(self, run: Run, tmp_path: Path) -> None:
        told: list[Progress] = []
        run(tmp_path, on_progress=told.append, checkpointing_steps=2)
        steps = [progress for progress in told if progress.phase == "training"]
        assert [progress.step for progress in steps] == [1, 2, 3, 4]
        assert [progress.loss for progress in steps] == losses(tmp_path)
        assert told[0].phase == "encoding"
        assert [progress.step for progress in told if progress.phase == "saving"] == [2, 4]
        assert steps[0].seconds_left > steps[-1].seconds_left == 0
        assert all(progress.memory > 10**6 and progress.steps == 4 for progress in told)

    def test_validation(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same noise at every step."""
        monkeypatch.setattr("personalize.core.validation.STEPS", 2)
        settings: dict[str, Any] = {
            "validation_prompt": "a {}",
            "num_validation_images": 2,
            "validation_steps": 1,
            "validation_samples": 5,
            "max_train_steps": 2,
            "learning_rate": 1e-30,
        }
        run(tmp_path / "a", **settings)
        a = [
            (tmp_path / "a/validation" / f"step-00000{n}-{m}.png").read_bytes()
            for n in (1, 2)
            for m in (0, 1)
        ]
        assert a[:2] == a[2:]
        assert a[0] != a[1]
        told = [
            line["validation_loss"] for line in log(tmp_path / "a") if "validation_loss" in line
        ]
        assert len(told) == 2
        assert told[0] == told[1]
        run(tmp_path / "b", **settings | {"learning_rate": 5.0})
        assert (tmp_path / "b/validation/step-000002-0.png").read_bytes() != a[2]

    def test_metadata(self, run: Run, tmp_path: Path) -> None:
        made = run(tmp_path, max_train_steps=1, learning_rate=0.02, seed=3)
        assert isinstance(made, Artifact)
        metadata = file(tmp_path)["metadata"]
        assert metadata["modelspec.sai_model_spec"] == "1.0.1"
        assert metadata["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"
        assert json.loads(metadata["diffusteer.train"]) == {
            "max_train_steps": 1,
            "learning_rate": 0.02,
            "seed": 3,
        }
        assert metadata["diffusteer.method"] == "Dummy(start_at=0.1)"
        assert len(metadata["diffusteer.base_hash"]) == 64
        assert (metadata["diffusteer.seed"], metadata["diffusteer.steps"]) == ("3", "1")

    def test_checkpoints_hold_the_file(self, run: Run, tmp_path: Path) -> None:
        run(tmp_path, max_train_steps=1, ema_decay=0.5)
        assert file(tmp_path / "checkpoint-1") == file(tmp_path)

    def test_the_methods_defaults(self, run: Run, tmp_path: Path) -> None:
        run(tmp_path / "a", max_train_steps=1)
        assert log(tmp_path / "a")[0]["rate"] == Dummy.defaults["learning_rate"]
        run(tmp_path / "b", max_train_steps=1, learning_rate=0.5, scale_lr=True)
        assert log(tmp_path / "b")[0]["rate"] == 0.5 * 4

    def test_from_a_folder(self, run: Run, model: Any, photo_folder: Path, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path / "model")
        settings = TrainSettings(max_train_steps=2)
        loaded = train(
            tmp_path / "model",
            Dummy(),
            photo_folder,
            tmp_path / "a",
            settings,
            DataSettings(resolution=16),
        )
        ours = run(tmp_path / "b", max_train_steps=2)
        assert torch.equal(loaded.tensors["clip_l"], ours.tensors["clip_l"])
        assert loaded.metadata["diffusteer.base_model"] == "model"


def _too_large(monkeypatch: pytest.MonkeyPatch, from_step: int) -> None:
    """No more than two samples fit into memory, which shows at the end of a loss."""
    loss = DummyTraining.loss

    def limited(training: DummyTraining, batch: Any) -> torch.Tensor:
        value = loss(training, batch)
        if batch.step >= from_step and len(batch.samples) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return value

    monkeypatch.setattr(DummyTraining, "loss", limited)
