"""``diffusteer hunt``: files, what is said, going on, two processes, wrong input in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from apps.cli import app
from apps.emblem.render import render
from apps.emblem.score import HEADS
from apps.emblem.world import Emblem, Scene
from apps.hunt.objectives import READABLE, load_objective
from apps.hunt.run import run as search
from apps.hunt.settings import HuntSettings
from guidance import HeadSet, parse_rule
from guidance.hunting.trial import Trial
from tests.launch import launch

MID = "mid_block.attentions.0.transformer_blocks.0.attn1"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["hunt", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("a red star\na blue ring\n")
    return tmp_path / "prompts.txt"


@pytest.fixture
def quick(models: Path, tmp_path: Path, prompts: Path) -> list[object]:
    """Options of a search that takes a moment and writes ``tmp_path / "made"``."""
    return [
        *("--prompts", prompts, "--model", models / "sd", "--objective", "validity"),
        *("--layers", "mid", "--k", 2, "--steps", 1, "--height", 16, "--width", 16),
        *("--out", tmp_path / "made" / "heads.json"),
    ]


def test_files_and_what_is_said(quick: list[object], tmp_path: Path) -> None:
    result = run(*quick, "--num-seeds", 2, "--seed", 5, "--strength", 0.5)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == "diffusteer: 64 pictures in all, 0 of them made already\n"
    made = tmp_path / "made"
    assert sorted(file.name for file in made.iterdir()) == ["heads.json", "heads.png", "heads.work"]
    found = HeadSet.load(made / "heads.json")
    assert (found.prompts, found.seeds) == (("a red star", "a blue ring"), (5, 6))
    assert (found.objective, found.scale, found.strength) == ("validity", 3.0, 0.5)
    assert found.call == {
        "num_inference_steps": 1,
        "guidance_scale": 1.0,
        "height": 16,
        "width": 16,
    }
    assert [len(scored) for scored in found.rounds] == [8, 7]
    first, *_, rule, _, last = result.stdout.splitlines()
    assert first.split() == ["no", "head", f"{found.baseline:.4f}"]
    assert parse_rule(rule).heads == found.best().heads  # type: ignore[attr-defined]
    assert last == f"written to {made / 'heads.json'} and {made / 'heads.png'}"
    with Image.open(made / "heads.png") as picture:
        assert min(picture.size) > 100


def test_the_same_command_goes_on(
    quick: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(*quick)
    expected = (tmp_path / "made" / "heads.json").read_bytes()
    (tmp_path / "made" / "heads.json").unlink()
    again = run(*quick)
    assert again.stdout == whole.stdout
    assert json.loads(run(*quick, "--json").stdout) == json.loads(expected)
    assert "32 pictures in all, 32 of them made already" in again.stderr
    assert (tmp_path / "made" / "heads.json").read_bytes() == expected

    scores, calls = Trial.scores, []

    def interrupted(trial: Trial, heads: Any) -> list[float]:
        calls.append(heads)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return scores(trial, heads)

    monkeypatch.setattr(Trial, "scores", interrupted)
    elsewhere = [*quick, "--work", tmp_path / "work", "--out", tmp_path / "two.json"]
    stopped = run(*elsewhere)
    assert stopped.exit_code == 130
    assert "stopped; scores so far are kept, the same command continues" in stopped.stderr
    assert not (tmp_path / "two.json").exists()
    ended = run(*elsewhere)
    assert "32 pictures in all, 10 of them made already" in ended.stderr
    assert (tmp_path / "two.json").read_bytes() == expected
    assert len(calls) == 16 + 1


def test_guidance_beside_on_a_flow_model(models: Path, tmp_path: Path, prompts: Path) -> None:
    result = run(
        *("--prompts", prompts, "--model", models / "sd3", "--guidance", "CFG(3)", "--steps", 1),
        *("--layers", "transformer_blocks.0:1", "--layers", "transformer_blocks.1:0", "--k", 1),
        *("--objective", "emblem:count=two", "--out", tmp_path / "heads.json", "--batch-size", 1),
    )
    assert result.exit_code == 0, result.stderr
    found = HeadSet.load(tmp_path / "heads.json")
    assert found.guidance == "CFG(scale=3.0)"
    assert found.call["guidance_scale"] > 1
    assert list(found.rounds[0]) == [
        ("transformer_blocks.0.attn", 1),
        ("transformer_blocks.1.attn", 0),
    ]


def test_two_processes_are_one(quick: list[object], tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = run(*quick, "--device", "cpu")
    finally:
        torch.set_num_threads(threads)
    one = (tmp_path / "made" / "heads.json").read_bytes()
    work = tmp_path / "made" / "heads.work" / "scores.jsonl"
    lines = work.read_text().splitlines()
    for file in ("heads.json", "heads.png"):
        (tmp_path / "made" / file).unlink()
    work.write_text("".join(f"{line}\n" for line in lines[:4]))

    ended = launch("apps.cli", "hunt", *quick)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "made" / "heads.json").read_bytes() == one
    assert (tmp_path / "made" / "heads.png").exists()
    assert work.read_text().splitlines() == lines
    assert ended.stdout == alone.stdout
    said = [line for line in ended.stderr.splitlines() if line.startswith("diffusteer: ")]
    assert said == ["diffusteer: 32 pictures in all, 8 of them made already"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--prompts", "/no/file"], "cannot read prompts file '/no/file'"),
        (["--prompts", "{twice}"], "prompts must hold each text once, found 'x' again"),
        (["--objective", "beauty"], "no objective 'beauty' (expected one of clip, clip:ID_OR_PATH"),
        (["--objective", "emblem:mood=sad"], "expected ATTRIBUTE=VALUE with one of recognisable,"),
        (["--objective", "emblem:texture=hairy"], "texture is one of solid, striped, dotted"),
        (["--objective", "emblem:texture"], "has an unknown value"),
        (["--objective", "clip:/no/clip"], "model '/no/clip' not found"),
        (["--model", "/no/model"], "model '/no/model' not found"),
        (["--layers", "middle"], "has no attention layer 'middle'"),
        (["--layers", "mid:9"], "has heads 0 to 7, found 9"),
        (["--k", 0], "k must be a whole number from 1 up, found 0"),
        (["--num-seeds", 0], "num_seeds must be a whole number from 1 up, found 0"),
        (["--seed", -1], "seed must be a whole number from 0"),
        (["--steps", 0], "steps must be"),
        (["--batch-size", 0], "batch_size must be"),
        (["--height", 0], "height must be"),
        (["--scale", 0], "scale must be a finite number above 0, found 0"),
        (["--scale", "nan"], "scale must be a finite number above 0, found nan"),
        (["--strength", 1.1], "strength must be above 0 and at most 1, found 1.1"),
        (["--guidance", "CFG("], "cannot read rule 'CFG('"),
        (["--device", "tpu"], "no device 'tpu' here"),
        (["--dtype", "int8"], "unknown dtype 'int8'"),
        (["--out", "{folder}"], "out must be a JSON file to write, found"),
        (["--out", "{folder}/heads.png"], "out must be a JSON file to write, found"),
        (["--out", "/proc/no/heads.json"], "cannot write to out folder '/proc/no'"),
        (["--width", 17], "divisible by"),
        (["--candidates", "x"], "No such option: --candidates"),
    ],
)
def test_wrong_input_is_one_line(
    wrong: list[object], words: str, quick: list[object], tmp_path: Path
) -> None:
    (tmp_path / "twice.txt").write_text("x\nx\n")
    (tmp_path / "folder").mkdir()
    places = {"twice": tmp_path / "twice.txt", "folder": tmp_path / "folder"}
    result = run(*quick, *(str(word).format(**places) for word in wrong))
    assert result.exit_code == 2
    errors = [line for line in result.stderr.splitlines() if " pictures in all, " not in line]
    assert len(errors) == 1
    assert words in errors[0]
    assert result.stdout == ""
    assert not (tmp_path / "made").exists()
    assert not list((tmp_path / "folder").iterdir())


def test_settings_of_another_search_are_refused(quick: list[object]) -> None:
    run(*quick)
    result = run(*quick, "--steps", 2)
    assert result.exit_code == 2
    assert "heads.work' holds another search: its call is " in result.stderr
    assert result.stderr.count("\n") == 1


STAR = Emblem("star", "red", "striped", "large")
RING = Emblem("ring", "blue", "solid", "small")


def pictures() -> list[Image.Image]:
    """A striped red star on green, a solid blue ring on yellow, and nothing."""
    scenes = [Scene((STAR,), "green"), Scene((RING,), "yellow")]
    drawn = [Image.fromarray(render(scene, np.random.default_rng(0))) for scene in scenes]
    return [*drawn, Image.new("RGB", (64, 64), "grey")]


def test_objectives_tell_pictures_apart() -> None:
    shown = pictures()
    texts = ["a striped red star on a green background", "a blue ring", "a red star"]
    striped = load_objective("emblem:texture=striped")(shown, texts)
    assert striped.shape == (3,)
    assert striped[0] > 0.9 and striped[1] < 0.1
    valid = load_objective("validity")(shown, texts)
    assert valid[0] > 0.9 and valid[1] > 0.9 and valid[2] < 0.5
    yellow = load_objective("emblem:background=yellow")(shown, texts)
    assert yellow[1] > 0.9 and yellow[0] < 0.1
    clip = load_objective("clip")
    right, wrong = clip(shown, texts), clip(shown, texts[::-1])
    assert right[0] > wrong[0]
    assert right.abs().max() <= 1


def test_names_of_objectives(tmp_path: Path) -> None:
    assert load_objective("clip").name == "clip"
    assert load_objective("validity").name == "validity"
    assert load_objective("emblem:style=outlined").name == "emblem:style=outlined"
    assert len(READABLE) == len(HEADS)


def test_without_a_callback(models: Path, tmp_path: Path) -> None:
    settings = HuntSettings(
        prompts=("x",),
        out=tmp_path / "heads.json",
        work=tmp_path / "work",
        objective="validity",
        model=str(models / "sd"),
        layers=(f"{MID}:0",),
        steps=1,
        height=16,
        width=16,
        device="cpu",
    )
    assert search(settings) == HeadSet.load(settings.out)
    raw = json.loads((tmp_path / "work" / "settings.json").read_text())
    assert raw["candidates"] == [[MID, 0]]
