"""``diffusteer bench guidance``: rows, files, and one line for every wrong input."""

from __future__ import annotations

import csv
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from apps.bench import models, parts
from apps.bench.guidance import bench_guidance, rounds
from apps.bench.memory import peak_memory
from apps.bench.models import subject
from apps.bench.results import COLUMNS, Row
from apps.bench.settings import PARTS, BenchSettings
from apps.cli import app
from guidance import SoftPAG


def run(*arguments: object) -> Result:
    command = ["bench", "guidance", *map(str, arguments)]
    return CliRunner().invoke(app, command, catch_exceptions=False)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files_of_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "peak_memory", lambda model, settings, batching: len(batching))
    monkeypatch.setattr("sys.argv", ["/bin/diffusteer", "bench", "guidance", "--model", "tiny"])
    result = run("--model", "tiny", "--pairs", 3, "--steps", 2, "--out", tmp_path / "made" / "x")
    assert result.exit_code == 0, result.stderr
    rows = table(tmp_path / "made" / "x.csv")
    assert list(rows[0]) == list(COLUMNS)
    assert [row["part"] for row in rows] == ["overhead", "overhead", "pag", "memory"]
    for row in rows:
        assert math.isfinite(float(row["ours"]))
        assert not row["ratio"] or 0 < float(row["ratio"]) < 100
    for row in rows[0], rows[2]:
        assert float(row["low"]) <= float(row["ratio"]) <= float(row["high"])
        assert float(row["ours"]) > 0
    assert (rows[1]["ours"], rows[1]["met"]) == ("0.0", "True")
    assert (rows[3]["ours"], rows[3]["ratio"]) == ("10", "2.0")
    about = json.loads((tmp_path / "made" / "x.json").read_text())
    assert about["command"] == "diffusteer bench guidance --model tiny"
    assert about["threads"] == torch.get_num_threads()
    assert {"torch", "diffusers"} < set(about["versions"])
    assert [row["case"] for row in about["rows"]] == [row["case"] for row in rows]
    assert all(row["case"] in result.stdout for row in rows)


def test_json_is_what_the_file_holds(tmp_path: Path) -> None:
    options = ["--model", "tiny", "--part", "overhead", "--pairs", 3, "--steps", 1]
    result = run(*options, "--out", tmp_path / "x", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == json.loads((tmp_path / "x.json").read_text())


def test_rules_that_are_off_cost_nothing(tmp_path: Path) -> None:
    settings = BenchSettings(
        models=("emblem-unet",), parts=("evaluations",), steps=2, out=tmp_path / "x"
    )
    steps: list[str] = []
    rows = bench_guidance(settings, "command", steps.append)
    assert len(rows) == len(steps) == rounds(settings)
    assert all(row.ours == 0 and row.met for row in rows)


def test_a_rule_that_is_on_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "EXTRA", {type(rule).__name__: rule for rule in parts.ON[:1]})
    settings = BenchSettings(models=("emblem-unet",), steps=2)
    (row,) = parts.evaluations("emblem-unet", settings, lambda: None)
    assert (row.ours, row.met) == (2, False)


def test_adaptive_guidance_is_beside_cfg() -> None:
    settings = BenchSettings(models=("emblem-unet",), steps=3, pairs=3)
    steps: list[None] = []
    time, evaluations = parts.adaptive("emblem-unet", settings, lambda: steps.append(None))
    assert time.pairs == 3 == len(steps) - 1
    assert evaluations.other == 6
    assert 3 < evaluations.ours <= 6
    assert evaluations.ratio == evaluations.ours / 6


def test_soft_pag_draws_what_diffusers_pag_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = BenchSettings(models=("emblem-unet",), steps=2, pairs=3)
    _, same = parts.pag("emblem-unet", settings, lambda: None)
    monkeypatch.setattr(parts, "SoftPAG", lambda scale, heads: SoftPAG(0.9 * scale, heads=heads))
    _, other = parts.pag("emblem-unet", settings, lambda: None)
    assert (same.met, other.met) == (True, False)


def test_a_sample_is_the_same_every_time() -> None:
    made = subject("tiny", BenchSettings(models=("tiny",), steps=2), batch=2)
    first = made.sample(5.0)
    assert first.shape == (2, 4, 8, 8)
    assert torch.equal(made.sample(5.0), first)
    assert not torch.equal(made.sample(2.0), first)
    assert made.steps == 2


@pytest.mark.parametrize("name", ["sdxl", "sd35", "flux"])
def test_larger_layouts_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a thousandth of the weights."""
    small: dict[str, dict[str, Any]] = {
        "sdxl": {
            "block_out_channels": (32, 64, 64),
            "transformer_layers_per_block": 1,
            "attention_head_dim": 8,
        },
        "sd35": {"num_layers": 2, "num_attention_heads": 1, "caption_projection_dim": 64},
        "flux": {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 1},
    }
    kind = models.KINDS[name]
    changed = models.Kind(**vars(kind) | {"settings": kind.settings | small[name], "pixels": 64})
    monkeypatch.setitem(models.KINDS, name, changed)
    settings = BenchSettings(models=(name,), steps=2, pairs=3)
    time, difference = parts.overhead(name, settings, lambda: None)
    assert time.ratio is not None
    assert (difference.ours, difference.met) == (0, True)
    assert subject(name, settings).denoiser.dtype == torch.float32


def test_compiled_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: compiled.append(net))
    subject("tiny", BenchSettings(models=("tiny",)))
    assert compiled == []
    made = subject("tiny", BenchSettings(models=("tiny",), compiled=True))
    assert compiled == [made.denoiser]


def test_memory_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    settings = BenchSettings(models=("tiny",), device="cpu", out=tmp_path / "x")
    peak = peak_memory("tiny", settings, "sequential")
    assert 2**16 < peak < 2**30


def test_memory_that_cannot_be_measured_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nOutOfMemoryError: too large")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(ValueError, match=r"memory of tiny, joint, .* OutOfMemoryError: too large"):
        peak_memory("tiny", BenchSettings(models=("tiny",)), "joint")


def test_whether_a_bar_is_met() -> None:
    def row(**values: Any) -> bool | None:
        return Row("p", "m", "c", "s", **values).met

    assert row(ours=3.0) is None
    assert row(ours=0.0, bar=0.0) is True
    assert row(ours=1.0, bar=0.0) is False
    assert row(ours=3.0, other=2.0, ratio=1.01, bar=1.01) is True
    assert row(ours=0.5, other=0.4, ratio=1.25, bar=1.01) is False


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--model", "sd16"], "unknown model 'sd16': expected emblem-unet, tiny"),
        (["--part", "speed"], "unknown part 'speed': expected overhead"),
        (["--pairs", "2"], "pairs must be a whole number from 3 up, found 2"),
        (["--steps", "0"], "steps must be a whole number from 1 up, found 0"),
        (["--pairs", "many"], "'--pairs'"),
        (["--device", "gpu"], "no device 'gpu' here"),
        (["--dtype", "int8"], "unknown dtype 'int8'"),
        (["--part", "adaptive"], "adaptive cannot be measured on tiny: expected emblem-unet"),
        (["--out", "/proc/x"], "cannot write to out folder"),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, wrong: list[str], words: str) -> None:
    quick = ["--model", "tiny", "--pairs", 3, "--out", tmp_path / "x"]
    if "--model" in wrong:
        quick = quick[2:]
    result = run(*quick, *wrong)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_every_part_has_models() -> None:
    assert all(PARTS.values())
    assert rounds(BenchSettings(models=("sd15",), parts=("pag", "memory"), pairs=5)) == 8
