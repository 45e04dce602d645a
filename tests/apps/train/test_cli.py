"""``diffusteer train evaluator``: files, going on, two processes, wrong input in one line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from apps.cli import app
from apps.train import run as module
from apps.train.kinds import Discriminator
from guidance import DynamicCFG, guide
from guidance.evaluators import Alignment, load_evaluator
from tests import tiny
from tests.tiny_families import FAMILIES

LIMIT = 300
"""Seconds until two processes are taken to hang."""

QUICK = (
    *("--sampling-steps", 2, "--keep", 2, "--batch-size", 12, "--steps", 6),
    *("--training-batch", 8, "--width", 8, "--depth", 1),
)


def train(*arguments: object) -> Result:
    words = ["train", "evaluator", *map(str, arguments)]
    return CliRunner().invoke(app, words, catch_exceptions=False)


def options(models: Path, pictures: Path, out: Path, kind: str = "discriminator") -> list[object]:
    own = ("--model", models / "sd", "--data", pictures, "--out", out)
    return ["--kind", kind, *own, *QUICK]


def test_alignment_is_of_use_at_once(models: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "alignment"
    result = train(*options(models, pictures, out, "alignment"))
    assert result.exit_code == 0, result.stderr
    assert sorted(each.name for each in out.parent.iterdir()) == [
        "alignment",
        "alignment.work",
        "records",
    ]
    head, _, *rows, _, last = result.stdout.splitlines()
    assert head == "held out, share of own captions found among 31 others:"
    assert last == f"written to {out}"
    about = load_evaluator(out).config.training
    assert len(rows) == len(about["scores"]) > 0
    assert about["data"]["pictures"] == 24
    assert about["data"]["held_out"] == 2
    assert about["data"]["records"] == 8 * about["data"]["held_out_records"]
    assert about["command"].startswith("diffusteer train evaluator --kind alignment --data ")
    assert "--keep 2 --steps 6" in about["command"]
    rule = DynamicCFG((1, 4), Alignment(str(out)))
    pipe = tiny.sd()
    with guide(pipe, rule) as run:
        tiny.sample(pipe, steps=2)
    assert len(run.report.to_dict()["steps"]) == 2


@pytest.mark.parametrize(
    ("kind", "more", "says"),
    [
        ("reward", ("--scorer", "tests.apps.train.scorers:redness"), "rank correlation"),
        ("classifier", ("--label", "scene.emblems.0.texture"), "accuracy"),
        ("classifier", ("--label", "scene.emblems.1.texture"), "accuracy"),
    ],
)
def test_other_kinds(
    kind: str, more: tuple[str, ...], says: str, models: Path, pictures: Path, tmp_path: Path
) -> None:
    pairs = "emblems.1" in str(more)
    if pairs:  # few scenes have a second emblem
        source, pictures = pictures, tmp_path / "pairs"
        shutil.copytree(source, pictures)
        rows = [json.loads(line) for line in (pictures / "metadata.jsonl").open()]
        for number, row in enumerate(rows):
            first = row["scene"]["emblems"][0]
            second = [] if number % 3 == 0 else [first | {"texture": "ab"[number % 2]}]
            row["scene"]["emblems"] = [first, *second]
        (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = train(*options(models, pictures, tmp_path / "out", kind), *more)
    assert result.exit_code == 0, result.stderr
    assert says in result.stdout
    assert ("8 of 24 pictures have no label and are left out" in result.stderr) == pairs
    config = load_evaluator(tmp_path / "out").config
    if kind == "reward":
        assert config.training["scorer"] == "tests.apps.train.scorers:redness"
        assert config.text_encoder is not None
    else:
        assert config.classes == (
            ("a", "b") if pairs else ("checkered", "dotted", "solid", "striped")
        )


def test_model_of_pixels_without_prompts(pictures: Path, tmp_path: Path) -> None:
    FAMILIES["ddpm"].build().save_pretrained(tmp_path / "ddpm")
    for number, path in enumerate(sorted(pictures.glob("*.png"))):
        place = tmp_path / "sorted" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    common = ("--model", tmp_path / "ddpm", "--data", tmp_path / "sorted", *QUICK)
    for kind in ("classifier", "discriminator"):
        result = train("--kind", kind, *common, "--out", tmp_path / kind)
        assert result.exit_code == 0, result.stderr
    assert load_evaluator(tmp_path / "classifier").config.classes == ("a", "b")
    assert load_evaluator(tmp_path / "discriminator").config.space == {"pixels": 3}
    refused = train("--kind", "alignment", *common, "--out", tmp_path / "no")
    assert refused.exit_code == 2
    assert "24 of 24 pictures" in refused.stderr


@pytest.fixture(scope="module")
def unbroken(models: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A discriminator, with its records and its work beside it."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    result = train(*options(models, pictures, out))
    assert result.exit_code == 0, result.stderr
    return out


def test_json(unbroken: Path, models: Path, pictures: Path) -> None:
    """Held-out scores, from the work that is kept."""
    result = train(*options(models, pictures, unbroken), "--json")
    assert result.exit_code == 0, result.stderr
    about = load_evaluator(unbroken).config.training
    assert json.loads(result.stdout) == {
        "folder": str(unbroken),
        "measure": about["measure"],
        "scores": about["scores"],
    }


def test_the_same_command_goes_on(
    unbroken: Path, models: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = Discriminator.loss, []

    def interrupted(self: Discriminator, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, *args)

    monkeypatch.setattr(Discriminator, "loss", interrupted)
    command = [
        *options(models, pictures, tmp_path / "out"),
        "--records",
        unbroken.parent / "records",
    ]
    stopped = train(*command)
    assert stopped.exit_code == 130
    assert "stopped; what is done is kept, the same command continues" in stopped.stderr
    assert not (tmp_path / "out").exists()
    ended = train(*command)
    assert ended.exit_code == 0, ended.stderr
    assert len(calls) == 6
    weights = "model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (unbroken / weights).read_bytes()
    again = train(*command)
    assert (again.exit_code, len(calls)) == (0, 6)
    assert (tmp_path / "out" / weights).read_bytes() == (unbroken / weights).read_bytes()


def test_two_processes_are_one(
    unbroken: Path, models: Path, pictures: Path, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launch = f"--multi_gpu --num_processes 2 --num_machines 1 --main_process_port {port}"
    quiet = "--mixed_precision no --dynamo_backend no --num_cpu_threads_per_process 1"
    program = ["-m", "accelerate.commands.accelerate_cli", "launch", *f"{launch} {quiet}".split()]
    own = map(str, [*options(models, pictures, tmp_path / "out"), "--device", "cpu"])
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE")
    }
    ended = subprocess.run(
        [sys.executable, *program, "-m", "apps.cli", "train", "evaluator", *own],
        env=environment | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("written to") == 1
    records = [folder / "records" for folder in (tmp_path, unbroken.parent)]
    names = [sorted(path.name for path in folder.iterdir()) for folder in records]
    assert names[0] == names[1]
    one, two = (load_file(folder / "model.safetensors") for folder in (unbroken, tmp_path / "out"))
    for name, value in one.items():
        torch.testing.assert_close(two[name].float(), value.float(), rtol=2e-3, atol=2e-4)


def _nothing(folder: Path) -> None:
    folder.mkdir()


def _one(folder: Path) -> None:
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")


def _no_captions(folder: Path) -> None:
    folder.mkdir()
    for name in "abc":
        Image.new("RGB", (8, 8), (ord(name), 0, 0)).save(folder / f"{name}.png")


def _no_picture(folder: Path) -> None:
    _no_captions(folder)
    for name in "abc":
        (folder / f"{name}.png").write_bytes(b"no picture " + name.encode())


def _no_rows(folder: Path) -> None:
    _no_captions(folder)
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": ')


def _one_class(folder: Path) -> None:
    _no_captions(folder)
    rows = [{"file_name": f"{name}.png", "text": name, "label": "x"} for name in "abc"]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize(
    ("make", "more", "says"),
    [
        (None, (), "there is nothing at"),
        (_nothing, (), "holds no pictures"),
        (_one, (), "holds 1 picture"),
        (_no_captions, (), "3 of 3 pictures"),
        (_no_picture, (), "not a picture"),
        (_no_rows, (), "is no JSON"),
        (_one_class, ("--kind", "classifier", "--label", "label"), "name 1 classes: x"),
        (_one_class, ("--kind", "classifier", "--label", "labels"), "name 0 classes"),
        (_one_class, ("--kind", "classifier"), "the folders name 0 classes"),
        (_one_class, ("--kind", "minority"), "kind must be one of alignment,"),
        (_one_class, ("--label", "label"), "label is for a classifier"),
        (_one_class, ("--scorer", "clip"), "scorer is for a reward"),
        (_one_class, ("--kind", "reward", "--scorer", "clap"), "no scorer 'clap'"),
        (_one_class, ("--kind", "reward", "--scorer", "no.such:f"), "cannot load scorer"),
        (
            _one_class,
            ("--kind", "reward", "--scorer", "tests.apps.train.scorers:number"),
            "must be a function, found int",
        ),
        (_one_class, ("--scales", "3", "2"), "scales must be"),
        (_one_class, ("--lr", "0"), "lr must be"),
        (_one_class, ("--steps", "0"), "steps must be"),
        (_one_class, ("--keep", "0"), "keep must be"),
        (_one_class, ("--pictures", "1"), "pictures must be"),
        (_one_class, ("--width", "3"), "width must be"),
        (_one_class, ("--model", "emblem-units"), "model 'emblem-units' not found"),
        (_one_class, ("--device", "cuda:99"), "no device 'cuda:99'"),
    ],
)
def test_bad_input_is_one_line(
    make: Any, more: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if make is not None:
        make(tmp_path / "data")
    if "--model" not in more:
        monkeypatch.setattr(module, "load_pipeline", None)  # refused before a model is loaded
    common = ("--kind", "alignment", "--data", tmp_path / "data", "--out", tmp_path / "out")
    result = train(*common, *more)
    assert result.exit_code == 2, result.output
    line, *others = result.stderr.splitlines()
    assert says in line
    assert not others
    assert {path.name for path in tmp_path.iterdir()} <= {"data"}


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("one_number", "must return one number for each of the 12 pictures"),
        ("broken", "not finite"),
        ("constant", "the same score"),
    ],
)
def test_scorers_that_do_not_score(
    function: str, says: str, unbroken: Path, models: Path, pictures: Path, tmp_path: Path
) -> None:
    own = ("--scorer", f"tests.apps.train.scorers:{function}")
    copied = shutil.copytree(unbroken.parent / "records", tmp_path / "records")
    result = train(
        *options(models, pictures, tmp_path / "out", "reward"), *own, "--records", copied
    )
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_is_one_line(
    unbroken: Path, models: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Discriminator.loss
    monkeypatch.setattr(Discriminator, "loss", lambda *args: plain(*args) * float("nan"))
    command = [
        *options(models, pictures, tmp_path / "out"),
        "--records",
        unbroken.parent / "records",
    ]
    result = train(*command)
    assert result.exit_code == 2
    assert "at step 0; lower the learning rate with --lr" in result.stderr
