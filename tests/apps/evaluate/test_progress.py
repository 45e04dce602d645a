"""Evaluations tell what they read, end where they are told to, and go on as if nothing happened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from apps.cli import app
from apps.evaluate.pictures import workplace
from apps.evaluate.protocols.distribution import distribution
from apps.evaluate.protocols.emblem import emblem
from apps.evaluate.protocols.prompts import prompts
from apps.evaluate.result import Result
from apps.evaluate.settings import EvaluateSettings


class Stop(Exception):
    """Raised by a visitor's button."""


class Liked:
    """A preference model that likes dark pictures."""

    name = "liked"

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        return [-float(np.asarray(image).max()) for image in images]

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}


@pytest.fixture
def few(emblems: Path, tmp_path: Path) -> Path:
    """Eight of the Emblem pictures with their captions, one of them twice."""
    folder = tmp_path / "few [b]"
    folder.mkdir()
    for number in range(8):
        shutil.copy(emblems / f"{number:06}.png", folder)
    shutil.copy(emblems / "000000.png", folder / "again.png")
    rows = [json.loads(line) for line in (emblems / "metadata.jsonl").read_text().splitlines()[:8]]
    rows.append(rows[0] | {"file_name": "again.png"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def numbers(result: Result) -> Any:
    found = result.to_dict()
    return found["scores"], found["images"], found["settings"]


def phase(name: str, total: int, batch: int) -> list[tuple[int, int, str]]:
    return [(done, total, name) for done in [*range(0, total, batch), total]]


def test_each_phase_tells_what_it_reads(
    few: Path, emblems: Path, settings: EvaluateSettings
) -> None:
    told: list[tuple[int, int, str]] = []
    telling = replace(settings, batch_size=3, on_progress=lambda *at: told.append(at))
    distribution(few, emblems, metrics=("kid",), settings=telling)
    network = "emblem-classifier"
    expected = [
        *phase(f"few [b], {network}", 8, 3),  # the ninth is the first again
        *phase(f"emblems, {network}", 32, 3),  # and these are the others
    ]
    assert told == expected
    told.clear()
    distribution(few, emblems, metrics=("kid",), settings=telling)
    assert told == []  # everything is kept
    prompts(few, rewards=[Liked()], settings=telling)
    assert told == [*phase("few [b], emblem-clip", 8, 3), *phase("few [b], liked", 9, 3)]


@pytest.mark.parametrize("kept", [0, 3, 8])
@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_a_stop_keeps_whole_batches_and_the_next_run_gives_the_same(
    few: Path,
    settings: EvaluateSettings,
    scratch: Path,
    kept: int,
    error: type[BaseException],
) -> None:
    single = replace(settings, batch_size=3)
    expected = emblem(few, settings=replace(single, cache=None))

    def stop(done: int, total: int, phase: str) -> None:
        if done == kept:
            raise error

    with pytest.raises(error):
        emblem(few, settings=replace(single, on_progress=stop))
    assert list(scratch.iterdir()) == []
    told: list[tuple[int, int]] = []
    telling = replace(single, on_progress=lambda done, total, phase: told.append((done, total)))
    assert numbers(emblem(few, settings=telling)) == numbers(expected)
    assert [total for _, total in told[:1]] == [8 - kept] * (kept < 8)


def test_the_command_line_shows_the_phases_on_terminals_and_prints_json_alone(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "result.json"
    options = ["--device", "cpu", "--no-cache", "--out", str(out), "--json"]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    ended = CliRunner().invoke(app, ["evaluate", "emblem", str(few), *options])
    assert json.loads(ended.stdout) == json.loads(out.read_text())
    assert "few [b], emblem-classifier" in ended.stderr
    assert "0/8 pictures" in ended.stderr


def test_an_interrupt_writes_no_result(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workplace, "embed", interrupt)
    out = tmp_path / "out"
    options = ["--device", "cpu", "--cache", str(tmp_path / "cache"), "--out", str(out / "a.json")]
    ended = CliRunner().invoke(app, ["evaluate", "emblem", str(few), *options])
    assert (ended.exit_code, ended.stdout) == (130, "")
    assert ended.stderr == "diffusteer: stopped; features made so far are kept\n"
    assert not (out / "a.json").exists()
