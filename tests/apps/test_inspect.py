"""``diffusteer inspect``: the table, its JSON, and one line for every wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from apps.cli import app
from apps.pipelines import load_pipeline
from guidance import inspect


def run(*arguments: object) -> Result:
    command = ["inspect", *map(str, arguments)]
    return CliRunner().invoke(app, command, catch_exceptions=False)


def test_without_a_model_it_is_the_shipped_one() -> None:
    result = run()
    assert result.exit_code == 0
    assert result.stdout.startswith("UNet2DConditionModel of StableDiffusionPipeline\n")
    assert result.stderr == ""


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_table_and_json(models: Path, name: str) -> None:
    expected = inspect(load_pipeline(str(models / name)))
    assert run("--model", models / name).stdout == f"{expected}\n"
    assert json.loads(run("--model", models / name, "--json").stdout) == expected.to_dict()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--model", "/no/such/folder"], "model '/no/such/folder' not found"),
        (["--model", "{models}/dit"], "DiTPipeline takes no prompt"),
        (["--layers"], "No such option: --layers"),
    ],
)
def test_wrong_input_is_one_line(models: Path, wrong: list[str], words: str) -> None:
    result = run(*(word.format(models=models) for word in wrong))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
