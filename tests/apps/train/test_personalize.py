"""``diffusteer train textual-inversion`` and its like: options, files, errors, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from apps.cli import app
from apps.train.personal import COMMANDS
from personalize.core.artifact import Artifact
from personalize.core.settings import DataSettings, TrainSettings
from tests.personalize.core.dummy import photos

WORD = "--placeholder_token <cat>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("photos"))


class Told:
    """What ``train`` is called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.error: BaseException | None = None
        monkeypatch.setattr("personalize.core.trainer.train", self)
        monkeypatch.setattr("apps.train.personalize.quiet", lambda: None)

    def __call__(self, *arguments: Any) -> Artifact:
        self.calls.append(arguments)
        if self.error:
            raise self.error
        metadata = {"token": arguments[1].placeholder_token}
        return Artifact(arguments[1].name, {"clip_l": torch.zeros(1, 2)}, metadata)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def places(folder: Path, out: Path) -> list[str]:
    return ["--train_data_dir", str(folder), "--output_dir", str(out)]


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_those_of_the_method(name: str) -> None:
    command = COMMANDS[name]
    method = getattr(import_module(command.home), command.cls)
    assert method.name == name
    assert list(command.options) == [field.name for field in fields(method)]
    names = [*command.options, *TrainSettings.model_fields, *DataSettings.model_fields]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str) -> None:
    shown = invoke(name, "--help")
    assert shown.exit_code == 0
    text = " ".join(shown.output.split())
    assert "Example, with the model that comes along" in text
    for flag in ("--train_data_dir", "--placeholder_token", "--learning_rate", "--config"):
        assert flag in text
    assert "typing." not in text


def test_help_is_light() -> None:
    code = (
        "import sys, apps.cli; assert not {'torch', 'diffusers', 'transformers'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_standard_flags(told: Told, folder: Path, tmp_path: Path) -> None:
    """The command line of the script of diffusers."""
    result = invoke(
        "textual-inversion",
        *("--pretrained_model_name_or_path=emblem-unet", f"--train_data_dir={folder}"),
        *("--learnable_property=style", "--placeholder_token=<cat-toy>"),
        *("--initializer_token=toy", "--resolution=512", "--train_batch_size=1"),
        *("--gradient_accumulation_steps=4", "--max_train_steps=3000"),
        *("--learning_rate=5.0e-04", "--scale_lr", "--lr_scheduler=constant"),
        *("--lr_warmup_steps=0", f"--output_dir={tmp_path}"),
    )
    assert result.exit_code == 0, result.output
    ((model, method, images, out, settings, data, _, device),) = told.calls
    assert Path(model).name == "emblem-unet"
    assert (images, out) == (folder, tmp_path)
    assert (method.placeholder_token, method.initializer_token) == ("<cat-toy>", "toy")
    assert settings == TrainSettings(scale_lr=True)
    assert settings.model_fields_set == {
        *("train_batch_size", "gradient_accumulation_steps", "max_train_steps", "learning_rate"),
        *("scale_lr", "lr_scheduler", "lr_warmup_steps"),
    }
    assert data == DataSettings(resolution=512, learnable_property="style")
    assert device is None
    assert "<cat-toy>" in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_json(told: Told, folder: Path, tmp_path: Path, name: str) -> None:
    """What was learned, as its file has it, and where."""
    words = ["--placeholder_token", "<星>", "--json"]
    if name == "perfusion":
        words += ["--super_category", "star"]
    result = invoke(name, *places(folder, tmp_path), *words)
    assert result.exit_code == 0, result.output
    expected = {"folder": str(tmp_path), "kind": name, "metadata": {"token": "<星>"}}
    assert json.loads(result.stdout) == expected
    assert "<星>" in result.stdout


def test_dashes(told: Told, folder: Path, tmp_path: Path) -> None:
    arguments = [
        argument.replace("_", "-") if argument.startswith("--") else argument
        for argument in [*places(folder, tmp_path), *WORD.split(), "--no_captions"]
    ]
    assert invoke("textual-inversion", *arguments).exit_code == 0
    assert told.calls[0][5] == DataSettings(captions=False)


@pytest.mark.parametrize("suffix", ["toml", "yaml"])
def test_file_then_set_then_flags(told: Told, folder: Path, tmp_path: Path, suffix: str) -> None:
    tables = {
        "train_data_dir": str(folder),
        "output_dir": str(tmp_path / "out"),
        "method": {"placeholder_token": "<cat>", "num_vectors": 2},
        "train": {"seed": 1, "max_train_steps": 2, "learning_rate": 0.1},
        "data": {"flip": 0.5},
    }
    file = tmp_path / f"a.{suffix}"
    lines = [f"{key} = {json.dumps(value)}" for key, value in tables.items() if key[-3:] == "dir"]
    for name in ("method", "train", "data"):
        lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in tables[name].items())]  # type: ignore[attr-defined]
    file.write_text(json.dumps(tables) if suffix == "yaml" else "\n".join(lines))
    result = invoke(
        *("textual-inversion", "--config", file, "--set", "train.max_train_steps=3"),
        *("--set", "train.learning_rate=0.2", "--learning_rate", "0.3"),
    )
    assert result.exit_code == 0, result.output
    _, method, images, out, settings, data, *_ = told.calls[0]
    assert (images, out) == (folder, tmp_path / "out")
    assert (method.placeholder_token, method.num_vectors) == ("<cat>", 2)
    assert settings == TrainSettings(seed=1, max_train_steps=3, learning_rate=0.3)
    assert data == DataSettings(flip=0.5)


def test_all_problems_in_one_line(told: Told, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('modle = "x"\ndata = 3\n[train]\nseeed = 1')
    result = invoke(
        *("textual-inversion", "--config", tmp_path / "a.toml", "--max_train_steps", "0"),
        *("--set", "method.vectors=2"),
    )
    assert result.exit_code == 2
    assert not told.calls
    (line,) = [line for line in result.stderr.splitlines() if line]
    assert line.startswith("diffusteer: error: ")
    for problem in (
        "train_data_dir: must be given",
        "output_dir: must be given",
        "modle: there is no such setting",
        "method.placeholder_token: must be given",
        "method.vectors: there is no such setting",
        "train.seeed: there is no such setting",
        "train.max_train_steps: input should be greater than or equal to 1, found 0",
        "data: input should be an object, found 3",
    ):
        assert problem in line
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ValueError("no such photos"), 2, "error: no such photos"),
        (OSError("disk is full"), 1, "error: disk is full"),
        (FloatingPointError("the loss is nan at step 3"), 1, "error: the loss is nan at step 3"),
        (KeyboardInterrupt(), 130, "stopped; continue with --resume_from_checkpoint latest"),
        (SystemExit(143), 143, "stopped; continue with --resume_from_checkpoint latest"),
    ],
)
def test_ends(
    told: Told, folder: Path, tmp_path: Path, error: BaseException, code: int, text: str
) -> None:
    told.error = error
    result = invoke("textual-inversion", *places(folder, tmp_path), *WORD.split())
    assert result.exit_code == code
    assert [line for line in result.stderr.splitlines() if line] == [f"diffusteer: {text}"]


def test_out_of_memory(told: Told, folder: Path, tmp_path: Path) -> None:
    told.error = torch.OutOfMemoryError("CUDA out of memory.")
    result = invoke("textual-inversion", *places(folder, tmp_path), *WORD.split())
    assert result.exit_code == 1
    assert "out of memory; try --gradient_checkpointing" in result.stderr


def test_no_model(told: Told, folder: Path, tmp_path: Path) -> None:
    model = ("--pretrained_model_name_or_path", "nothing")
    result = invoke("textual-inversion", *places(folder, tmp_path), *WORD.split(), *model)
    assert result.exit_code == 2
    assert "model 'nothing' not found" in result.stderr


def test_device(told: Told, folder: Path, tmp_path: Path) -> None:
    arguments = ["textual-inversion", *places(folder, tmp_path), *WORD.split(), "--device"]
    assert invoke(*arguments, "cpu").exit_code == 0
    assert str(told.calls[0][-1]) == "cpu"
    result = invoke(*arguments, "cuda:9")
    assert result.exit_code == 2
    assert "no device 'cuda:9' here: expected one of auto, " in result.stderr
    assert len(told.calls) == 1


def test_a_run(folder: Path, tmp_path: Path) -> None:
    """From photos to a file with the shipped model, stopped by SIGTERM and continued."""
    command = [sys.executable, "-m", "apps.cli", "train", "textual-inversion"]
    command += [*places(folder, tmp_path), *WORD.split(), "--initializer_token", "star"]
    command += ["--max_train_steps", "20", "--gradient_accumulation_steps", "1"]
    command += ["--resume_from_checkpoint", "latest"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (tmp_path / "log.jsonl").exists():
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, shown = process.communicate(timeout=300)
    assert process.returncode == 143, shown
    command += ["--json"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "learned_embeds.safetensors").is_file()
    artifact = Artifact.load(tmp_path)
    found = json.loads(ended.stdout)
    assert (found["folder"], found["kind"]) == (str(tmp_path), artifact.kind)
    assert found["metadata"].items() <= artifact.metadata.items()
    assert found["metadata"]["diffusteer.steps"] == "20"
    lines = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 21))
