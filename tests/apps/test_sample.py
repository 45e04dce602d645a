"""``diffusteer sample``: files, determinism, one line for every wrong input, a clean stop."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from apps.cli import app
from apps.generate import Call
from apps.sample import SHEET_LINES, _sheet_rows, sample
from apps.settings import SampleSettings
from guidance import CFG, Rule
from tests import tiny
from tests.launch import launch


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["sample", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def quick(models: Path, tmp_path: Path) -> list[object]:
    """Options of a run that takes a moment and writes to ``tmp_path / "made"``."""
    return ["--model", models / "sd", "--steps", 3, "--out", tmp_path / "made"]


def _text(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        return {str(key): str(value) for key, value in image.info.items()}


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_report_and_metadata(quick: list[object], tmp_path: Path) -> None:
    result = run("a red star", "a blue ring", "--num-images", 2, "--seed", 7, *quick)
    assert result.exit_code == 0, result.stderr
    names = ["000-7.png", "001-8.png", "002-7.png", "003-8.png"]
    others = ["contact-sheet.png", "metadata.jsonl", "report.json"]
    assert sorted(_contents(tmp_path / "made")) == [*names, *others]
    assert "contact-sheet.png" in result.stdout
    assert result.stderr == ""

    report = json.loads((tmp_path / "made" / "report.json").read_text())
    assert [entry["prompt"] for entry in report["prompts"]] == ["a red star", "a blue ring"]
    assert [file for entry in report["prompts"] for file in entry["files"]] == names
    assert report["run"]["nfe"] == 6  # one batch of three steps, two evaluations each
    assert report["contact_sheet_pictures"] == 4

    lines = (tmp_path / "made" / "metadata.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"file_name": name, "text": prompt, "seed": seed}
        for name, prompt, seed in zip(
            names, ["a red star"] * 2 + ["a blue ring"] * 2, [7, 8] * 2, strict=True
        )
    ]

    text = _text(tmp_path / "made" / "003-8.png")
    settings = json.loads(text["diffusteer"])
    assert settings["prompt"] == "a blue ring"
    assert (settings["seed"], settings["steps"], settings["model"]) == (8, 3, "sd")
    assert Rule.from_config(settings["guidance_config"]) == CFG(5.0)
    assert text["parameters"].startswith("a blue ring\nSteps: 3, Sampler: DDIM, CFG scale: 5.0, ")
    assert str(tmp_path) not in "".join(text.values())


def test_same_seed_twice_same_bytes(quick: list[object], tmp_path: Path) -> None:
    run("a red star", *quick)
    first = _contents(tmp_path / "made")
    run("a red star", *quick)
    assert _contents(tmp_path / "made") == first
    run("a red star", *quick, "--seed", 1)
    assert _contents(tmp_path / "made")["001-1.png"] == first["001-1.png"]


def test_two_processes_write_what_one_does(quick: list[object], tmp_path: Path) -> None:
    words = ["a red star", "a blue ring", "--num-images", 3, "--batch-size", 2, *quick, "--json"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = run(*words, "--device", "cpu")
    finally:
        torch.set_num_threads(threads)
    one = _contents(tmp_path / "made")
    shutil.rmtree(tmp_path / "made")

    ended = launch("apps.cli", "sample", *words)
    assert ended.returncode == 0, ended.stderr
    assert _contents(tmp_path / "made") == one
    assert ended.stdout == alone.stdout


def test_pictures_of_varied_seeds_share_no_noise(quick: list[object], tmp_path: Path) -> None:
    run("a red star", "a red star", *quick, "--num-images", 2, "--seed", 7, "--vary-seed")
    made = _contents(tmp_path / "made")
    assert {"000-7.png", "001-8.png", "002-9.png", "003-10.png"} < set(made)
    run("a red star", *quick, "--num-images", 1, "--seed", 9)
    with Image.open(tmp_path / "made" / "000-9.png") as alone:
        assert alone.tobytes() == Image.open(io.BytesIO(made["002-9.png"])).tobytes()


def test_guidance_changes_the_picture_and_none_is_reported(
    quick: list[object], tmp_path: Path
) -> None:
    run("a red star", *quick, "--num-images", 1)
    guided = Image.open(tmp_path / "made" / "000-0.png").tobytes()
    result = run("a red star", *quick, "--num-images", 1, "--guidance", "none", "--json")
    assert Image.open(tmp_path / "made" / "000-0.png").tobytes() != guided
    report = json.loads(result.stdout)
    assert (report["guidance"], report["run"]) == ("none", None)
    assert report == json.loads((tmp_path / "made" / "report.json").read_text())


def test_a_flow_model_and_more_options(models: Path, tmp_path: Path) -> None:
    result = run(
        *("x", "--model", models / "sd3", "--steps", 2, "--out", tmp_path, "--scheduler", "heun"),
        *("--guidance", "CFG(linear(2, 6)) + Rescale(0.5)", "--width", 24, "--height", 32),
        *("--negative-prompt", "blur", "--batch-size", 3, "--no-metadata", "--dtype", "bfloat16"),
    )
    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "003-3.png") as image:
        assert image.size == (24, 32)
        assert not image.info
    assert not (tmp_path / "metadata.jsonl").exists()


def test_what_was_learned_is_drawn_and_told(quick: list[object], tmp_path: Path) -> None:
    """Not so a file of another width, nor one that is not there."""
    pictures = {}
    for name, seed in (("first", 1), ("second", 2)):
        rows = torch.randn(2, 32, generator=torch.Generator().manual_seed(seed))
        save_file({"<cat>": rows}, tmp_path / f"{name}.safetensors")
        learned = ["--learned", tmp_path / f"{name}.safetensors", "--num-images", 1]
        result = run("a <cat>", *quick, *learned)
        assert result.exit_code == 0, result.stderr
        pictures[name] = (tmp_path / "made" / "000-0.png").read_bytes()
    assert pictures["first"] != pictures["second"]
    settings = json.loads(_text(tmp_path / "made" / "000-0.png")["diffusteer"])
    assert settings["learned"] == ["<cat>"]
    save_file({"<cat>": torch.ones(1, 31)}, tmp_path / "wide.safetensors")
    for name in ("wide", "none"):
        options = [*quick[:-1], tmp_path / name, "--learned", tmp_path / f"{name}.safetensors"]
        result = run("a <cat>", *options)
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1 and f"{name}.safetensors" in result.stderr
        assert not (tmp_path / name).exists()


def test_without_out_every_run_has_its_own_folder(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        run("x", "--model", models / "sd", "--steps", 2, "--num-images", 1)
    assert [path.name for path in sorted(Path("out").iterdir())] == ["001", "002"]


PROMPTS = {
    "prompts.txt": "\ufeffa red star\r\n\n  a blue ring \n",
    "rows.jsonl": '{"text": "a red star", "rarity": 3}\n\n{"seed": 1, "text": "a blue ring"}',
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_from_a_file(quick: list[object], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(PROMPTS[name], encoding="utf-8")
    result = run("--prompts", tmp_path / name, "--num-images", 1, *quick, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["prompts"] == [
        {"prompt": "a red star", "files": ["000-0.png"]},
        {"prompt": "a blue ring", "files": ["001-0.png"]},
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.txt", None, "none.txt': No such file or directory"),
        ("picture.txt", b"\x89PNG\xff", "picture.txt': not UTF-8 text"),
        ("blank.txt", b"\n \n", "blank.txt' is empty"),
        (
            "rows.jsonl",
            b'{"text": "a"}\n\n{"text": "b"',
            "line 3 of prompts file '{file}' is not JSON",
        ),
        (
            "rows.jsonl",
            b'{"text": "a"}\n{"prompt": "b"}',
            "line 2 of prompts file '{file}' has no text",
        ),
        ("rows.jsonl", b'{"text": " "}', "line 1 of prompts file '{file}' has no text"),
        ("rows.jsonl", b'["a"]', "line 1 of prompts file '{file}' has no text"),
    ],
)
def test_a_wrong_file_of_prompts_is_one_line(
    quick: list[object], tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    result = run("--prompts", file, *quick)
    assert result.exit_code == 2
    assert words.format(file=file) in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "made").exists()


def test_names_sort_and_the_sheet_stays_small_beyond_a_thousand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = iter(range(1001))
    monkeypatch.setattr("apps.sample.load_pipeline", lambda *_, **__: tiny.sd())
    monkeypatch.setattr(
        "apps.sample.generate",
        lambda *_, **__: (Image.new("RGB", (256, 256), (n % 256, 0, 0)) for n in drawn),
    )
    prompts = tuple(f"star {number}" for number in range(1001))
    made = sample(SampleSettings(prompts=prompts, out=tmp_path, num_images=1, device="cpu"))
    assert [path.name for path in made.pictures] == sorted(path.name for path in made.pictures)
    assert made.pictures[-1].name == "1000-0.png"
    assert made.report["contact_sheet_pictures"] == SHEET_LINES
    with Image.open(made.sheet) as sheet:
        assert sheet.width < 300 and sheet.height < SHEET_LINES * 300


@pytest.mark.parametrize(
    ("prompts", "each", "rows", "length"),
    [(2, 4, 2, 4), (100, 8, 64, 8), (100, 9, 32, 9), (3, 512, 1, 512), (2, 600, 1, 512)],
)
def test_the_sheet_shows_whole_prompts_up_to_its_length(
    prompts: int, each: int, rows: int, length: int
) -> None:
    settings = SampleSettings(prompts=("x",) * prompts, out=Path(), num_images=each)
    assert [(row.start, len(row)) for row in _sheet_rows(settings)] == [
        (number * each, length) for number in range(rows)
    ]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--guidance", "CGF(3)"], "unknown name 'CGF'; did you mean CFG?"),
        (["--guidance", "CFG(-1)"], "scale must be a finite number from 0 up, found -1"),
        (["--guidance", "CFG(("], "cannot read rule 'CFG(('"),
        (["--model", "/no/such/folder"], "model '/no/such/folder' not found"),
        (["--model", "{tmp}"], "is no pipeline: expected model_index.json"),
        (["--model", "owner/name"], "'owner/name'; check the id and the connection"),
        (["--model", "{models}/dit"], "DiTPipeline takes no prompt"),
        (["--steps", "0"], "steps must be a whole number from 1 up, found 0"),
        (["--steps", "many"], "'--steps'"),
        (["--num-images", "-2"], "num_images must be a whole number from 1 up, found -2"),
        (["--batch-size", "0"], "batch_size must be"),
        (["--seed", "-1"], "seed must be a whole number from 0"),
        (["--seed", "1e3"], "'--seed'"),
        (["--scheduler", "eulr"], "unknown scheduler 'eulr'; did you mean 'euler'?"),
        (["--model", "{models}/sd3", "--scheduler", "ddim"], "expected one of euler, heun"),
        (["--dtype", "int8"], "unknown dtype 'int8'"),
        (["--device", "gpu"], "no device 'gpu' here"),
        (["--model", "{models}/sd3", "--height", "17"], "divisible"),
        (["--out", "{tmp}/file/made"], "cannot write to out folder"),
        (["--out", "/proc/made"], "cannot write to out folder"),
        (["--modle", "x"], "No such option: --modle"),
        ([""], "prompt 2 must say what to draw"),
        (["--prompts", "{tmp}/file"], "either PROMPT or --prompts FILE, found both"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(
    quick: list[object], models: Path, tmp_path: Path, wrong: list[str], words: str
) -> None:
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    result = run(
        "a red star", *quick, *(word.format(tmp=tmp_path, models=models) for word in wrong)
    )
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr
    assert result.stderr.startswith("diffusteer: error: ")
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_no_prompt_and_wrong_command() -> None:
    for arguments, words in [
        (["sample"], "PROMPT or --prompts FILE, found neither"),
        (["smaple"], "Did you mean 'sample'?"),
    ]:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert words in result.stderr
        assert result.stderr.count("\n") == 1


def test_verbose_shows_the_traceback(quick: list[object]) -> None:
    result = run("a red star", *quick, "--steps", 0, "--verbose")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr


def test_what_will_be_ignored_is_said(quick: list[object]) -> None:
    result = run("a" * 17, *quick, "--guidance", "none", "--negative-prompt", "blur")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "diffusteer: warning: the negative prompt is not used: it needs guidance, found none",
        "diffusteer: warning: prompt 1 is too long for this model: its last 3 tokens are cut",
    ]


def test_an_interrupt_keeps_whole_pictures_and_exits_with_130(
    quick: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = Call.arguments
    calls: list[int] = []

    def second_time(call: Call, pipe: Any, count: int) -> dict[str, Any]:
        calls.append(count)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return arguments(call, pipe, count)

    monkeypatch.setattr(Call, "arguments", second_time)
    result = run("a red star", *quick, "--batch-size", 2)
    assert result.exit_code == 130
    assert result.stderr == "diffusteer: stopped; finished pictures are kept\n"
    assert sorted(_contents(tmp_path / "made")) == ["000-0.png", "001-1.png"]


def test_a_full_disk_is_one_line(quick: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    result = run("a red star", *quick)
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert result.stderr.count("\n") == 1


def test_version_and_help() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == "0.1.0\n"
    assert "sample" in CliRunner().invoke(app, []).stdout
    assert 'diffusteer sample "a red star"' in run("--help").stdout


def test_the_real_command(quick: list[object], tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("diffusteer")
    command = [str(program), "sample", "a red star", *map(str, quick)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "made" / "contact-sheet.png").is_file()
