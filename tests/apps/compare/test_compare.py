"""``diffusteer compare``: one noise for all rules, a page, a table, one line for wrong input."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from apps.cli import app
from apps.compare.picture import difference_picture, grid_picture
from apps.compare.run import Cell, compare, draw, judged
from apps.compare.settings import CompareSettings, read_seeds
from apps.compare.sweep import variants
from apps.emblem.render import render
from apps.emblem.world import Emblem, Scene
from apps.generate import Job
from apps.pictures import CELL
from guidance import CFG, Rule


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def quick(models: Path, tmp_path: Path) -> list[object]:
    """Options of a comparison that takes a moment and writes to ``tmp_path / "made"``."""
    small = ("--steps", 2, "--height", 16, "--width", 16)
    return ["--model", models / "sd", *small, "--out", tmp_path / "made"]


def _pixels(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image)


def test_files_and_what_is_said(quick: list[object], tmp_path: Path) -> None:
    made = tmp_path / "made"
    rules = ("--rules", "none", "--rules", "CFG(3)", "--seeds", "7-8")
    result = run("a red star", "a blue ring", *rules, *quick, "--difference")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"8 pictures, see {made / 'grid.png'} and {made / 'compare.csv'}\n"
    pictures = [f"{number:03}-{7 + number % 2}.png" for number in range(8)]
    others = ["compare.csv", "difference.png", "grid.png", "report.json"]
    assert sorted(path.name for path in made.iterdir()) == [*pictures, *others]

    with (made / "compare.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == pictures
    assert [row["rule"] for row in rows] == ["none"] * 4 + ["CFG(3)"] * 4
    assert [row["prompt"] for row in rows] == (["a red star"] * 2 + ["a blue ring"] * 2) * 2
    assert [float(row["evaluations"]) for row in rows] == [2.0] * 4 + [4.0] * 4
    assert all(float(row["seconds"]) > 0 for row in rows)
    report = json.loads((made / "report.json").read_text())
    assert [cell["file"] for cell in report["cells"]] == pictures
    assert Rule.from_config(report["rules"]["CFG(3)"]["guidance_config"]) == CFG(3.0)

    with Image.open(made / pictures[5]) as image:
        metadata = json.loads(image.info["diffusteer"])
    assert (metadata["prompt"], metadata["seed"]) == ("a red star", 8)
    assert metadata["guidance"] == "CFG(scale=3.0)"


def test_cells_are_the_pictures_of_sample(quick: list[object], tmp_path: Path) -> None:
    run("a red star", "--rules", "none", "--rules", "CFG(3)", "--seeds", "5", *quick)
    for number, rule in enumerate(("none", "CFG(3)")):
        options = ["--guidance", rule, "--seed", 5, "--num-images", 1, *quick]
        options[-1] = tmp_path / "alone"
        alone = CliRunner().invoke(app, ["sample", "a red star", *map(str, options)])
        assert alone.exit_code == 0, alone.stderr
        ours = _pixels(tmp_path / "made" / f"{number:03}-5.png")
        assert np.array_equal(ours, _pixels(tmp_path / "alone" / "000-5.png"))


def test_a_flow_model_and_json(models: Path, tmp_path: Path) -> None:
    result = run(
        *("x", "--rules", "CFG + Rescale(0.5)", "--sweep", "cfg.scale=2, 4", "--seeds", "1,3"),
        *("--model", models / "sd3", "--steps", 2, "--out", tmp_path, "--json", "--no-metadata"),
        *("--negative-prompt", "blur", "--batch-size", 3, "--scheduler", "heun"),
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert [(cell["rule"], cell["seed"]) for cell in report["cells"]] == [
        (f"CFG(scale={scale}) + Rescale(phi=0.5)", seed) for scale in (2.0, 4.0) for seed in (1, 3)
    ]
    assert (report["scheduler"], report["negative_prompt"]) == (
        "FlowMatchHeunDiscreteScheduler",
        "blur",
    )
    assert not (tmp_path / "difference.png").exists()
    with Image.open(tmp_path / "000-1.png") as image:
        assert not image.info


def test_of_several_processes_the_first_one_speaks(
    quick: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    for words in ([], ["--json"]):
        result = run("x", "--rules", "none", "--seeds", "0", *quick, *words)
        assert (result.exit_code, result.stdout) == (0, "")


def test_progress_counts_every_cell(sd: Any) -> None:
    settings = CompareSettings(
        prompts=("x", "y"), rules=("CFG(2)", "CFG(3)"), seeds=(0,), steps=2, batch_size=1
    )
    said: list[tuple[float, int]] = []
    rows = variants(settings.rules)
    cells = list(draw(sd, settings, rows, lambda done, total: said.append((done, total))))
    assert [cell.evaluations for cell in cells] == [4.0] * 4
    assert [done for done, _ in said if done == int(done)][::2] == [1.0, 2.0, 3.0, 4.0]
    assert {total for _, total in said} == {4}
    assert said == sorted(said)


def test_without_out_and_callback(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = compare(
        CompareSettings(
            prompts=("x",), rules=("CFG(2)",), seeds=(0,), steps=1, model=str(models / "sd")
        )
    )
    assert made.grid == Path("out/001/grid.png")
    assert made.difference is None


def test_interrupted_it_keeps_whole_pictures(
    quick: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(cells: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("apps.compare.run.judged", stopped)
    result = run("x", "--rules", "CFG(2)", "--seeds", "0-1", *quick)
    assert result.exit_code == 130
    assert result.stderr == "diffusteer: stopped; finished pictures are kept\n"
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == ["000-0.png", "001-1.png"]


STAR = Scene((Emblem("star", "red", "striped", "large"),), "blue")


def _cell(rule: str, picture: Image.Image, seed: int = 0, prompt: str = "x") -> Cell:
    return Cell(rule, Job(prompt, seed), picture, 20.0, 0.5)


def test_accuracy_of_captions() -> None:
    star = Image.fromarray(render(STAR, np.random.default_rng(0)))
    prompts = ("a large striped red star on a blue background", "a green ring")
    cells = judged([_cell("CFG", star, prompt=prompt) for prompt in prompts])
    assert [cell.accuracy for cell in cells] == [1.0, 0.0]
    assert judged([_cell("CFG", star, prompt="a photo of a cat")])[0].accuracy is None
    small = star.resize((32, 32))
    assert judged([_cell("CFG", small, prompt=prompts[0])])[0].accuracy is None


def _counts(page: Image.Image) -> dict[Any, int]:
    return {colour: count for count, colour in page.getcolors(1 << 20) or []}


def test_the_page_shows_every_cell_in_its_place() -> None:
    colours = ("red", "lime", "blue", "yellow")
    cells = [
        _cell(rule, Image.new("RGB", (64, 64), colours[2 * row + seed]), seed)
        for row, rule in enumerate(("CFG(2)", "CFG(3)"))
        for seed in (0, 1)
    ]
    page = grid_picture(cells)
    counts = _counts(page)
    shown = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))
    assert [counts[colour] for colour in shown] == [CELL * CELL] * 4
    places = [np.argwhere((np.asarray(page) == colour).all(-1))[0] for colour in shown]
    assert places[0][0] == places[1][0] < places[2][0] == places[3][0]
    assert places[0][1] == places[2][1] < places[1][1] == places[3][1]
    assert counts[0, 0, 0] > 100  # what stands beside them
    two = grid_picture([*cells, *(_cell(c.rule, c.image, c.job.seed, "y") for c in cells)])
    assert two.width == page.width and two.height > 1.9 * page.height - 20


def test_the_difference_is_around_grey() -> None:
    levels = {"first": 100, "same": 100, "more": 120, "less": 0}
    cells = [
        _cell(rule, Image.new("RGB", (64, 64), (level,) * 3)) for rule, level in levels.items()
    ]
    counts = _counts(difference_picture(cells))
    for level in (100, 128, 138, 78):
        assert counts[(level,) * 3] >= CELL * CELL


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0-3", (0, 1, 2, 3)), ("5", (5,)), ("9,1-2, 1", (9, 1, 2)), (" 7 - 8 ", (7, 8))],
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1,,2", "0-1000", "1.5"])
def test_wrong_seeds(text: str) -> None:
    with pytest.raises(ValueError, match=r"seeds must .*found '"):
        read_seeds(text)


def test_a_sweep_goes_into_nested_rules_and_leaves_others_alone() -> None:
    found = variants(["none", "AdaptiveGuidance(CFG(5), 0.9)", "APG(3)"], "CFG.scale=2,4")
    assert [row.label for row in found] == [
        "none",
        "AdaptiveGuidance(rule_or_scale=CFG(scale=2.0), threshold=0.9)",
        "AdaptiveGuidance(rule_or_scale=CFG(scale=4.0), threshold=0.9)",
        "APG(3)",
    ]
    assert found[0].rule is None
    (limited,) = variants(["CFG(3).between(0.2, 0.8)"], "CFG.scale=5")
    assert limited.rule == CFG(5.0).between(0.2, 0.8)
    (heads,) = variants(["SoftPAG(3)"], 'SoftPAG.heads=("mid", "up")')
    assert heads.label == "SoftPAG(heads=('mid', 'up'))"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--sweep", "CFG.scale"], "sweep must be such as CFG.scale=2,4,6, found 'CFG.scale'"),
        (["--sweep", "scale=2"], "sweep must be such as"),
        (["--sweep", "CFG.scale="], "sweep must be such as"),
        (["--sweep", "CFG.scale=two"], "sweep must be such as"),
        (["--sweep", "APG.eta=2"], "sweep 'APG.eta=2': no rule is a APG, found CFG(2)"),
        (["--sweep", "CFG.scal=2"], "sweep: CFG has no setting 'scal'; expected one of scale"),
        (["--sweep", "CFG.scale=-2"], "scale must be a finite number from 0 up, found -2"),
        (["--rules", "CFG(2)"], "rules must hold at least one and none twice"),
        (["--rules", "CGF(3)"], "unknown name 'CGF'; did you mean CFG?"),
        (["--seeds", "3-1"], "seeds must rise, 1000 of them at most, found '3-1'"),
        (["--seeds", str(2**63)], "seeds must be a whole number from 0"),
        (["x"], "prompts must hold at least one and none twice, found ('x', 'x')"),
        (["--steps", 0], "steps must be a whole number from 1 up, found 0"),
        (["--seeds", "0-999", "--rules", "none"], "has at most 1000 pictures, found 2000"),
        (["--model", "/no/model"], "model '/no/model' not found"),
        (["--out", "/proc/made"], "cannot write to out folder '/proc/made'"),
        (["--width", 17], "divisible by"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(
    wrong: list[object], words: str, quick: list[object], tmp_path: Path
) -> None:
    result = run("x", "--rules", "CFG(2)", *quick, *wrong)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert not (tmp_path / "made").exists()
