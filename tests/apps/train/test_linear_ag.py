"""``diffusteer train linear-ag``: the fit that Python makes, and one line for wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from apps.cli import app
from apps.pipelines import load_pipeline
from guidance import LinearAG, fit_linear_ag
from tests import tiny

PROMPTS = ("a red star", "a blue ring")
SETTINGS = ("--scale", "4", "--steps", "4", "--device", "cpu")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


def run(prompts: Path, *arguments: object) -> Result:
    given = ["train", "linear-ag", "--prompts", prompts, *SETTINGS, *arguments]
    return CliRunner().invoke(app, [*map(str, given)])


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_it_is_the_fit_from_python(
    family: str, models: Path, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made" / "fit.json"
    result = run(prompts, "--out", out, "--model", models / family, "--seed", 5, "--json")
    assert result.exit_code == 0, result.output
    rule = LinearAG(4, str(out))
    assert json.loads(result.stdout) == {"file": str(out), "rule": repr(rule), "prompts": 2}
    pipe = load_pipeline(str(models / family), device="cpu", dtype="float32")
    generator = torch.Generator().manual_seed(5)
    fit_linear_ag(pipe, PROMPTS, 4, 4, tmp_path / "own.json", generator=generator)
    assert out.read_bytes() == (tmp_path / "own.json").read_bytes()


def test_the_size_is_that_of_the_option(models: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "fit.json"
    side = 8 * tiny.sd().vae_scale_factor
    run(prompts, "--out", out, "--model", models / "sd", "--height", side, "--width", 2 * side)
    assert LinearAG(4, str(out)).fitted.shape[-2:] == (8, 16)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("--scale", 1), "scale must be a number above 1, found 1"),
        (("--steps", 0), "steps must be"),
        (("--seed", -1), "seed must be"),
        (("--scheduler", "pnmd"), "scheduler"),
        (("--out", "fit"), "out must be a .json file to write, found 'fit'"),
    ],
)
def test_wrong_input_is_one_line(
    wrong: tuple[str, object], told: str, models: Path, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "fit.json"
    result = run(prompts, "--out", out, "--model", models / "sd", *wrong)
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert not out.exists()
