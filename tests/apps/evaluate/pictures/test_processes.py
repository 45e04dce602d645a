"""One process or two: the same numbers, said once, and no process waits for one that failed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from accelerate import DistributedType, PartialState

from apps.evaluate.pictures import processes as work
from apps.evaluate.pictures.processes import Processes
from apps.evaluate.protocols.distribution import distribution
from apps.evaluate.result import Result
from apps.evaluate.settings import EvaluateSettings
from tests.launch import launch


def own_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("diffusteer: ")]


def test_two_processes(emblems: Path, settings: EvaluateSettings, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    for path in sorted(emblems.glob("*.png"))[::2]:
        shutil.copy(path, real)
    out = tmp_path / "out" / "two.json"
    options = ("--cache", tmp_path / "both", "--batch-size", "3")
    ended = launch("apps.evaluate", "distribution", emblems, real, "--out", out, *options)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("| fid |") == 1
    assert ended.stdout.count(f"written to {out}") == 1
    assert len(own_lines(ended.stderr)) == 2  # each folder is small, and that is said once
    assert [file.name for file in out.parent.iterdir()] == ["two.json"]

    one, two = distribution(emblems, real, settings=settings), Result.read(out)
    assert (one.provenance["processes"], two.provenance["processes"]) == (1, 2)
    assert two.settings == one.settings
    assert two.images is not None and one.images is not None
    assert two.images.names == one.images.names
    for ours, theirs in zip(one.scores, two.scores, strict=True):
        assert theirs.metric == ours.metric
        assert theirs.value == pytest.approx(ours.value, abs=1e-6)
        assert (theirs.interval or ()) == pytest.approx(ours.interval or (), abs=1e-6)


def test_bad_picture_ends_both(emblems: Path, tmp_path: Path) -> None:
    shutil.copytree(emblems, tmp_path / "pictures")
    (tmp_path / "pictures" / "bad.png").write_text("no picture")
    out = tmp_path / "out" / "two.json"
    ended = launch("apps.evaluate", "emblem", tmp_path / "pictures", "--out", out, "--no-cache")
    assert ended.returncode != 0
    (line,) = own_lines(ended.stderr)
    assert "error: 1 of 41 pictures in " in line and "bad.png (not a picture)" in line
    assert not out.exists()


def rounds(processes: Processes, count: int, batch: int) -> list[list[list[int]]]:
    return list(processes.rounds(range(count), list, batch))


def test_alone() -> None:
    processes = Processes("cpu")
    assert (processes.count, processes.first, processes.device.type) == (1, True, "cpu")
    assert processes.once(lambda: [1, "a"]) == [1, "a"]
    assert processes.once(lambda: None) is None
    assert rounds(processes, 5, 2) == [[[0, 1]], [[2, 3]], [[4]]]
    assert rounds(processes, 0, 2) == []


def test_alone_errors_pass_through() -> None:
    processes = Processes("cpu")
    made: list[int] = []

    def fail(items: Sequence[int]) -> None:
        made.extend(items)
        raise ValueError(f"bad {items[0]}")

    with pytest.raises(ValueError, match=r"^bad 0$"):
        processes.once(lambda: fail([0]))
    with pytest.raises(ValueError, match=r"^bad 7$"):
        list(processes.rounds([7, 8, 9], fail, 2))
    assert made == [0, 7, 8]


def test_interrupt_is_not_passed_on() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Processes("cpu").once(interrupt)


def test_later_programs_keep_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.setattr(PartialState, "default_device", torch.device("meta"))
    Processes("cpu")
    assert PartialState().device.type == "meta"


def test_launched_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(work, "pick_device", torch.device)
    assert Processes("auto").device.type == "cpu"
    assert Processes("meta").device.type == "meta"


def test_processes_that_cannot_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(PartialState, "_prepare_backend", lambda *_: (None, DistributedType.NO))
    with pytest.raises(ValueError, match="2 processes cannot work together on cpu; use"):
        Processes("cpu")


@pytest.mark.parametrize("count", range(8))
@pytest.mark.parametrize("batch", [1, 3])
def test_dealing(monkeypatch: pytest.MonkeyPatch, count: int, batch: int) -> None:
    """Each item is made once, and all processes meet equally often."""
    monkeypatch.setattr(work, "gather_object", lambda own: own)
    dealt = []
    for index in range(3):
        processes = Processes("cpu")
        processes._state = type(
            "State", (), {"num_processes": 3, "process_index": index, "is_main_process": index == 0}
        )()
        dealt.append([part for (part,) in rounds(processes, count, batch)])
    assert len({len(parts) for parts in dealt}) == 1
    assert sorted(item for parts in dealt for part in parts for item in part) == list(range(count))
    assert max((len(part) for parts in dealt for part in parts), default=0) <= batch
    sizes = [sum(map(len, parts)) for parts in dealt]
    assert max(sizes) - min(sizes) <= 1


def test_error_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    other = (None, OSError("disk full"))
    monkeypatch.setattr(work, "gather_object", lambda own: [*own, other])
    monkeypatch.setattr(work, "broadcast_object_list", lambda own: list(other))
    processes = Processes("cpu")
    with pytest.raises(OSError, match="disk full"):
        rounds(processes, 4, 1)
    with pytest.raises(OSError, match="disk full"):
        processes.once(lambda: 1)


def test_only_the_first_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes("cpu")
    processes._state = type("State", (), {"is_main_process": False})()
    monkeypatch.setattr(work, "broadcast_object_list", lambda own: ["from the first", None])
    made: list[int] = []
    assert processes.once(lambda: made.append(1)) == "from the first"
    assert made == []
