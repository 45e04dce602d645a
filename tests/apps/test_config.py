"""``--config FILE``: the file speaks where the command line is silent, and is checked at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from apps.cli import app

TOML = """
prompt = ["a red star", "a blue ring"]
num-images = 1
seed = 7
negative_prompt = "blur"
metadata = false
json = true
"""
YAML = """
prompt: [a red star, a blue ring]
num_images: 1
seed: 7
negative-prompt: blur
metadata: false
json: true
"""


@pytest.fixture
def quick(models: Path, tmp_path: Path) -> list[str]:
    return ["--model", str(models / "sd"), "--steps", "1", "--out", str(tmp_path / "made")]


def run(*words: str) -> Result:
    return CliRunner().invoke(app, [*words], catch_exceptions=False)


def _file(folder: Path, text: str, name: str = "run.toml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@pytest.mark.parametrize(("name", "text"), [("run.toml", TOML), ("run.yaml", YAML)])
def test_a_file_speaks_for_the_command_line(
    name: str, text: str, tmp_path: Path, quick: list[str]
) -> None:
    result = run("sample", "--config", _file(tmp_path, text, name), *quick)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert [entry["files"] for entry in report["prompts"]] == [["000-7.png"], ["001-7.png"]]
    assert report["negative_prompt"] == "blur"
    assert not (tmp_path / "made" / "metadata.jsonl").exists()


def test_options_go_first(tmp_path: Path, quick: list[str]) -> None:
    config = _file(tmp_path, TOML)
    result = run("sample", "x", "--seed", "3", "--metadata", *quick, "--config", config)
    assert result.exit_code == 0, result.stderr
    assert [entry["files"] for entry in json.loads(result.stdout)["prompts"]] == [["000-3.png"]]
    assert (tmp_path / "made" / "metadata.jsonl").exists()


def test_one_value_stands_for_a_list_and_required_options_may_be_in_the_file(
    tmp_path: Path, quick: list[str]
) -> None:
    config = _file(tmp_path, 'prompt = "x"\nrules = "CFG(2)"\nseeds = "4"\njson = true')
    result = run("compare", "--config", config, *quick)
    assert result.exit_code == 0, result.stderr
    (cell,) = json.loads(result.stdout)["cells"]
    assert (cell["rule"], cell["seed"]) == ("CFG(2)", 4)


WRONG = """
stepz = 3
colour = "red"
seed = 2.5
vary_seed = "perhaps"
num-images = true
height = "tall"
batch_size = {a = 1}
width = [1, 2]
"""


def test_all_problems_of_a_file_are_in_one_line(tmp_path: Path, quick: list[str]) -> None:
    result = run("sample", "x", "--config", _file(tmp_path, WRONG), *quick)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "stepz: there is no such setting; did you mean steps?; colour: there is no" in (
        result.stderr
    )
    for name in ("seed", "vary_seed", "num-images", "height", "batch_size", "width"):
        assert f"; {name}: " in result.stderr
    assert "num-images: expected a number or text, found True" in result.stderr
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("run.toml", "steps = ", "cannot read config file"),
        ("run.yaml", "- steps", "must be a table of settings"),
        ("run.json", "{}", "config file must be .toml, .yaml or .yml"),
        ("run.toml", 'config = "other.toml"', "config: there is no such setting"),
        ("run.toml", "help = true", "help: there is no such setting"),
    ],
)
def test_a_wrong_file_is_one_line(
    name: str, text: str, words: str, tmp_path: Path, quick: list[str]
) -> None:
    result = run("sample", "x", "--config", _file(tmp_path, text, name), *quick)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_no_file(tmp_path: Path) -> None:
    result = run("sample", "x", "--config", str(tmp_path / "no.toml"))
    assert result.exit_code == 2
    assert "no.toml': No such file or directory" in result.stderr
