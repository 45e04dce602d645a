"""``diffusteer claims guidance``: files, a clean stop, one line for every wrong input."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from apps.claims import feedback, guidance
from apps.claims.cells import Cell
from apps.claims.measure import Bench
from apps.claims.results import csv_table
from apps.cli import app

TINY = (
    Cell(name="guided", claim="settings", rule="CFG(3)", steps=2),
    Cell(name="plain", claim="settings", rule="CFG(1)", steps=2),
)

SUITE = replace(guidance.SUITE, cells=TINY, grids={"claims-softpag.png": ("plain",)})


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guidance, "SUITE", SUITE)


def run(folder: Path, *arguments: object) -> Result:
    where = ["--out", folder / "results", "--work", folder / "cells", "--images", 4]
    words = ["claims", "guidance", *map(str, [*where, *arguments])]
    return CliRunner().invoke(app, words, catch_exceptions=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guidance, "SUITE", SUITE)
        folder = tmp_path_factory.mktemp("made")
        result = run(folder, "--seed", 5)
    assert result.exit_code == 0, result.stderr
    assert "| guided | `CFG(3)` | 2 | 4 |" in result.stdout
    return folder


def test_the_results_name_command_seed_versions_and_machine(made: Path) -> None:
    found = json.loads((made / "results" / "claims-guidance.json").read_text())
    assert found["command"] == "diffusteer claims guidance --images 4 --seed 5"
    assert (found["seed"], found["images"]) == (5, 4)
    assert {"torch", "diffusers", "diffusteer", "python"} <= found["versions"].keys()
    assert "threads" in found["machine"]
    assert [row["cell"] for row in found["cells"]] == ["guided", "plain", "renders-pairs"]
    assert [row["evaluations"] for row in found["cells"]] == [4, 2, 0]
    for row in found["cells"]:
        assert row["measures"].keys() <= found["measures"].keys()
        for name, measure in row["measures"].items():
            assert measure["low"] <= measure["value"] <= measure["high"], (row["cell"], name)


def test_the_csv_table_is_the_json(made: Path) -> None:
    path = made / "results" / "claims-guidance.json"
    check_csv(path)
    for name in ("claims-guidance-settings.png", "claims-softpag.png"):
        assert (made / "results" / name).stat().st_size > 1000


def check_csv(path: Path) -> None:
    rows = json.loads(path.read_text())["cells"]
    with path.with_suffix(".csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["cell"] for line in table] == [row["cell"] for row in rows]
    for line, row in zip(table, rows, strict=True):
        assert float(line["evaluations"]) == row["evaluations"]
        for name, measure in row["measures"].items():
            assert float(line[name]) == measure["value"]
            assert float(line[f"{name}_low"]) == measure["low"]


def test_a_stop_is_clean_and_the_same_command_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, names = Bench.measure, []

    def counted(bench: Bench, cell: Cell, on_pictures: Any) -> Any:
        names.append(cell.name)
        if len(names) == 2:
            raise KeyboardInterrupt
        return measure(bench, cell, on_pictures)

    monkeypatch.setattr(Bench, "measure", counted)
    result = run(tmp_path)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == (
        "diffusteer: stopped; finished cells are kept, the same command continues"
    )
    assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == [
        "guided.json",
        "guided.safetensors",
    ]
    assert not (tmp_path / "results").exists()
    assert run(tmp_path).exit_code == 0
    assert names == ["guided", "plain", "plain"]


def test_only_measures_what_matches_and_keeps_the_rest(made: Path) -> None:
    before = (made / "cells" / "guided.json").stat().st_mtime_ns
    result = run(made, "--seed", 5, "--only", "^plain$", "--json")
    assert result.exit_code == 0, result.stderr
    assert (made / "cells" / "guided.json").stat().st_mtime_ns == before
    found = json.loads((made / "results" / "claims-guidance.json").read_text())
    assert json.loads(result.stdout) == found
    assert [row["cell"] for row in found["cells"]] == ["guided", "plain", "renders-pairs"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--images", "5"], "images must be a multiple of 2 from 4 up, found 5"),
        (["--images", "2"], "images must be a multiple of 2 from 4 up, found 2"),
        (["--images", "many"], "'--images'"),
        (["--seed", "-1"], "seed must be a whole number from 0 up, found -1"),
        (["--only", "("], "only must be a regular expression, found '('"),
        (["--only", "nothing"], "matches no cell; expected a part of one of guided, plain"),
        (["--out", "/proc/made"], "cannot write to out folder"),
        (["--work", "/proc/made"], "cannot write to out folder"),
        (["--stepz", "2"], "No such option: --stepz"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(
    tmp_path: Path, wrong: list[str], words: str
) -> None:
    result = run(tmp_path, *wrong)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert result.stderr.startswith("diffusteer: error: ")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_subject_is_one_line() -> None:
    result = CliRunner().invoke(app, ["claims", "guidanse"])
    assert result.exit_code == 2
    assert "Did you mean 'guidance'?" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_baseline_needs_torchmetrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell(name="other", claim="settings", rule="CFG(2)", baseline="guided")
    monkeypatch.setattr(guidance, "SUITE", replace(SUITE, cells=(*TINY, cell)))
    monkeypatch.setattr("apps.claims.run.find_spec", lambda name: None)
    result = run(tmp_path)
    assert result.exit_code == 2
    assert "pip install diffusteer[eval]" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_each_suite_has_its_own_command_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = replace(feedback.SUITE, cells=(replace(TINY[0], measures=("quality",)),))
    monkeypatch.setattr(feedback, "SUITE", suite)
    where = ["--out", str(tmp_path / "results"), "--work", str(tmp_path / "cells")]
    words = ["claims", "feedback", "--images", "4", *where]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    path = tmp_path / "results" / "claims-feedback.json"
    found = json.loads(path.read_text())
    assert found["command"] == "diffusteer claims feedback --images 4 --seed 0"
    assert [row["cell"] for row in found["cells"]] == ["guided", "renders-pairs"]
    assert all("quality" in row["measures"] for row in found["cells"])
    table = csv_table(found["cells"], found["measures"])
    assert table == path.with_suffix(".csv").read_text()
    assert "quality" in table.splitlines()[0].split(",")
    assert "leakage" not in table
