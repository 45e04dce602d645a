"""A checkpoint is whole or absent, wherever the process dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from personalize.core import checkpoint
from personalize.core.checkpoint import State, checkpoints, latest, read, save


def state(step: int, position: int = 0) -> State:
    generator = torch.Generator().manual_seed(step * 10 + position)
    tensors = {
        "row": torch.randn(300, generator=generator),
        "count": torch.tensor(step),
        "bits": torch.tensor([step % 7, 255], dtype=torch.uint8),
    }
    return State(step, position, tensors, {"step": step, "rate": 0.1 + step / 3})


def assert_is(found: State, wanted: State) -> None:
    assert (found.step, found.position, found.record) == (
        wanted.step,
        wanted.position,
        wanted.record,
    )
    assert found.tensors.keys() == wanted.tensors.keys()
    assert all(torch.equal(found.tensors[name], wanted.tensors[name]) for name in found.tensors)


def extra(folder: Path) -> None:
    (folder / "learned.safetensors").write_bytes(b"learned")


def test_round_trip(tmp_path: Path) -> None:
    path = save(tmp_path / "run", state(500), extra=extra)
    assert path == tmp_path / "run" / "checkpoint-500"
    assert_is(read(path), state(500))
    manifest = json.loads((path / "manifest.json").read_text())
    assert sorted(manifest) == ["learned.safetensors", "state.json", "state.safetensors"]
    assert manifest["learned.safetensors"]["size"] == 7
    assert sorted(os.listdir(tmp_path / "run")) == ["checkpoint-500"]


def test_latest_is_by_number(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    for step, position in ((9, 0), (100, 0), (20, 3), (20, 0), (20, 12)):
        save(tmp_path, state(step, position))
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-200.tmp").mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == [
        "checkpoint-9",
        "checkpoint-20",
        "checkpoint-20.3",
        "checkpoint-20.12",
        "checkpoint-100",
    ]
    found = latest(tmp_path)
    assert found is not None
    assert_is(found[1], state(100))


def test_limit(tmp_path: Path) -> None:
    for step in (1, 5, 10, 20):
        save(tmp_path, state(step), limit=2)
        assert len(checkpoints(tmp_path)) <= 2
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-20"]
    save(tmp_path, state(30), limit=1)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-30"]


def test_the_old_one_goes_after_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, state(1), limit=1)
    removed: list[list[str]] = []
    remove = checkpoint._remove

    def seen(path: Path) -> None:
        removed.append([other.name for other in checkpoints(tmp_path)])
        remove(path)

    monkeypatch.setattr(checkpoint, "_remove", seen)
    save(tmp_path, state(2), limit=1)
    assert removed == [["checkpoint-1", "checkpoint-2"]]


def test_saved_twice(tmp_path: Path) -> None:
    """A state that is there is left alone; half of one is replaced."""
    path = save(tmp_path, state(1))
    before = (path / "state.safetensors").stat().st_mtime_ns
    save(tmp_path, state(1), extra=lambda _: pytest.fail("written again"))
    assert (path / "state.safetensors").stat().st_mtime_ns == before
    (path / "complete").unlink()
    save(tmp_path, state(1))
    assert_is(read(path), state(1))


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "learned.safetensors"])
@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_damaged(tmp_path: Path, file: str, how: str, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, state(1))
    path = save(tmp_path, state(2), extra=extra)
    content = bytearray((path / file).read_bytes())
    if how == "cut":
        (path / file).write_bytes(content[:-1])
    elif how == "changed":
        content[-1] ^= 1
        (path / file).write_bytes(content)
    else:
        (path / file).unlink()
    with pytest.raises(ValueError, match="checkpoint-2' is damaged") as error:
        read(path)
    assert "\n" not in str(error.value)
    found = latest(tmp_path)
    assert found is not None
    assert_is(found[1], state(1))
    assert "trying an older one" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", "{", '{"state.json": 3}', "\x00"])
def test_damaged_manifest(tmp_path: Path, content: str) -> None:
    path = save(tmp_path, state(2))
    (path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match="checkpoint-2' is damaged"):
        read(path)


def test_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist; resume from another"):
        read(tmp_path / "checkpoint-3")
    with pytest.raises(ValueError, match="expected a name such as checkpoint-500"):
        read(tmp_path)
    path = save(tmp_path, state(3))
    (path / "complete").unlink()
    with pytest.raises(ValueError, match="was not written to its end"):
        read(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(tmp_path: Path, value: float) -> None:
    tensors = {"row": torch.tensor([1.0, value])}
    with pytest.raises(FloatingPointError, match="row holds numbers that are not finite"):
        save(tmp_path, State(1, 0, tensors, {}))
    with pytest.raises(FloatingPointError):
        checkpoint.write_tensors(tmp_path / "x.safetensors", tensors)
    assert not os.listdir(tmp_path)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, state(1), limit=1)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(checkpoint, "save_file", full)
        save(tmp_path, state(2), limit=1)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-1"]
    save(tmp_path, state(2), limit=1)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-2"]


def save_until(folder: Path, new: State, point: int, halves: bool) -> int:
    """Save, and die of SIGKILL at a line of ``checkpoint.py``; the lines that were executed.

    Args:
        folder: of the run.
        new: what to save, with one older checkpoint to remove.
        point: line to die at, as they are executed; -1 for none.
        halves: cut all files that are not yet in place in half before.
    """
    passed = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal passed
        if frame.f_code.co_filename != checkpoint.__file__:
            return None
        passed += event == "line"
        if passed == point:
            for file in folder.rglob("*") if halves else ():
                if ".tmp" in str(file) and file.is_file():
                    os.truncate(file, file.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    try:
        save(folder, new, limit=2, extra=extra)
    finally:
        sys.settrace(None)
    return passed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All through a save: the old state or the new one is found, and saving goes on."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # slow, and the machine does not die here
    before = tmp_path / "before"
    for step in (1, 2):
        save(before, state(step), extra=extra)
    shutil.copytree(before, tmp_path / "whole")
    lines = save_until(tmp_path / "whole", state(3), -1, False)
    points = range(1, lines + 1, lines // 60)
    seen = []
    for point in points:
        folder = tmp_path / f"at-{point}"
        shutil.copytree(before, folder)
        child = os.fork()
        if not child:
            save_until(folder, state(3), point, halves=point % 2 == 0)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        found = latest(folder)
        assert found is not None
        assert_is(found[1], state(found[1].step))
        assert len(checkpoints(folder)) >= 2
        seen.append(found[1].step)
        save(folder, state(4), limit=2, extra=extra)
        kept = [path.name for path in checkpoints(folder)]
        assert kept == [f"checkpoint-{seen[-1]}", "checkpoint-4"]
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert len(seen) >= 50
    assert seen == sorted(seen)
    assert set(seen) == {2, 3}
