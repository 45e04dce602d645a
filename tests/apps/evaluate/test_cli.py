"""``diffusteer evaluate``: files, tables, comparisons, and one line for every wrong input."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from apps.cli import app
from apps.emblem.data import export_photos

CONCEPTS = ("a striped green ring", "a solid red star")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def quick(tmp_path: Path) -> list[object]:
    """Options that keep a run below ``tmp_path``."""
    return ["--device", "cpu", "--cache", tmp_path / "cache", "--out", tmp_path / "result.json"]


@pytest.fixture
def few(emblems: Path, tmp_path: Path) -> Path:
    """Eight of the Emblem pictures with their captions, in a folder of their own."""
    folder = tmp_path / "few"
    folder.mkdir()
    for number in range(8):
        shutil.copy(emblems / f"{number:06}.png", folder)
    shutil.copy(emblems / "metadata.jsonl", folder)
    return folder


@pytest.fixture
def concepts(tmp_path: Path) -> Path:
    """Photos of two concepts, each in its folder."""
    for concept in CONCEPTS:
        name = concept.removeprefix("a ").replace(" ", "_")
        export_photos(tmp_path / "concepts" / name, concept, 3, seed=0)
    return tmp_path / "concepts"


def _check(result: Result, file: Path, protocol: str, *metrics: str) -> dict[str, Any]:
    """The JSON file of a run that went well, which the table goes with."""
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(file.read_text())
    assert found["protocol"] == protocol
    named = [score["metric"] for score in found["scores"]]
    assert set(metrics) <= set(named)
    head, _, *rows = result.stdout.split("\n\n")[0].splitlines()
    assert head == "| metric | value | 95 % interval | n |"
    assert [row.split(" | ")[0].strip("| ") for row in rows] == named
    assert result.stdout.endswith(f"written to {file}\n")
    return found


def test_distribution(few: Path, emblems: Path, quick: list[object], tmp_path: Path) -> None:
    result = run("distribution", few, emblems, *quick)
    _check(result, tmp_path / "result.json", "distribution", "fid", "recall", "vendi")
    warnings = result.stderr.splitlines()
    assert len(warnings) == 2
    assert all(line.startswith("diffusteer: warning: ") for line in warnings)
    run("distribution", few, emblems, *quick, "--metric", "kid", "--metric", "vendi")
    chosen = json.loads((tmp_path / "result.json").read_text())
    assert [score["metric"] for score in chosen["scores"]] == ["kid", "vendi"]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("/opt/bin/diffusteer", "diffusteer"),
        ("/opt/apps/evaluate/__main__.py", "python -m apps.evaluate"),
    ],
)
def test_the_result_names_its_command(
    few: Path,
    quick: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    said: str,
) -> None:
    monkeypatch.setattr("sys.argv", [program, "emblem", "two words"])
    run("emblem", few, *quick)
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["provenance"]["command"] == f"{said} emblem 'two words'"


def test_statistics_serve_distribution(
    few: Path, emblems: Path, quick: list[object], tmp_path: Path
) -> None:
    file = tmp_path / "made" / "real.safetensors"
    result = run("statistics", emblems, file, *quick[:4])
    assert (result.exit_code, result.stdout) == (0, f"written to {file}\n")
    told = run("statistics", emblems, file, "--json", *quick[:4])
    assert json.loads(told.stdout) == {
        "file": str(file),
        "extractor": "emblem-classifier",
    }
    result = run("distribution", few, file, *quick)
    found = _check(result, tmp_path / "result.json", "distribution", "fid")
    assert found["settings"]["reference"]["pictures"] == 40
    assert "statistics serve fid and vendi; kid and prdc need the pictures" in result.stderr


def test_prompts(few: Path, quick: list[object], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red star\n" * 8)
    result = run("prompts", few, *quick)
    found = _check(result, tmp_path / "result.json", "prompts", "clip_t", "clip_score")
    result = run("prompts", few, "--prompts", tmp_path / "prompts.txt", *quick)
    other = _check(result, tmp_path / "result.json", "prompts", "clip_t", "clip_score")
    assert other["scores"][0]["value"] < found["scores"][0]["value"]
    assert set(other["images"]["texts"]) == {"a red star"}


def test_subject(concepts: Path, quick: list[object], tmp_path: Path) -> None:
    result = run("subject", concepts, concepts, "--token", "{}", *quick)
    metrics = ("clip_i", "clip_t", "classifier_i", "clip_i_real")
    found = _check(result, tmp_path / "result.json", "subject", *metrics)
    assert found["settings"]["subjects"] == {"solid_red_star": 3, "striped_green_ring": 3}
    assert not any("{}" in text for text in found["images"]["texts"])
    assert any("on a" in text for text in found["images"]["texts"])


def test_multi(concepts: Path, quick: list[object], tmp_path: Path) -> None:
    generated = tmp_path / "generated"
    export_photos(generated, CONCEPTS[0], 3, seed=1)
    arguments = ["multi", generated, concepts, "--full-prompt", *quick]
    (generated / "metadata.jsonl").unlink()
    (tmp_path / "prompts.txt").write_text("a striped green ring on a white background\n" * 3)
    result = run(*arguments, "--prompts", tmp_path / "prompts.txt")
    found = _check(result, tmp_path / "result.json", "multi", "cp_clip", "ti_clip", "detected")
    assert found["settings"]["detector"]["name"] == "emblem"
    assert set(found["images"]["texts"]) == {
        "striped green ring: a striped green ring on a white background"
    }


def test_emblem_as_json_to_the_default_file(
    few: Path, quick: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(few)
    result = run("emblem", ".", "--json", "--no-cache", *quick[:4])
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert json.loads(result.stdout) == json.loads(Path("out", "emblem-few.json").read_text())
    assert not (tmp_path / "cache").exists()
    assert run("emblem", "../few", *quick[:4]).exit_code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["emblem-few.json"]


def test_a_comparison(few: Path, emblems: Path, tmp_path: Path, quick: list[object]) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    (tmp_path / "prompts.txt").write_text("a red star\n" * 8)
    run("emblem", few, *quick, "--out", first)
    run("emblem", few, *quick, "--out", second)
    result = run("--compare", first, second)
    assert (result.exit_code, result.stderr) == (0, "")
    head, _, *rows = result.stdout.splitlines()
    assert head == "| metric | first | second | change | 95 % interval | better |"
    assert rows[0] == "| accuracy | 1 | 1 | 0 | 0 to 0 | higher |"

    run("emblem", few, *quick, "--prompts", tmp_path / "prompts.txt", "--out", second)
    result = run("--compare", first, second)
    _check_refused(result, "these results cannot be compared: prompts is '", "in the same way")
    assert "classifier" not in result.stderr
    run("prompts", few, *quick, "--out", second)
    _check_refused(run("--compare", first, second), "protocol is 'emblem' and 'prompts'")


def test_comparisons_of_what_is_no_result(few: Path, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "broken.json").write_text("{")
    for name, words in [
        ("absent.json", "cannot read result"),
        ("other.json", "is no result of diffusteer evaluate"),
        ("broken.json", "is no result of diffusteer evaluate"),
        ("few", "cannot read result"),
    ]:
        _check_refused(run("--compare", tmp_path / name, tmp_path / "other.json"), words)
    result = run("--compare", tmp_path / "other.json")
    _check_refused(result, "requires 2 arguments; see")


def _check_refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("diffusteer: error: ")
    for word in words:
        assert word in line
    assert result.stdout == ""


def _bomb(path: Path) -> None:
    """A PNG that claims to be 20,000 pixels on each side."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        parts = kind + content
        return struct.pack(">I", len(content)) + parts + struct.pack(">I", zlib.crc32(parts))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(60_001)))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    path.write_bytes(start + data + chunk(b"IEND", b""))


def _truncate(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])


BAD: dict[str, Callable[[Path], object]] = {
    "truncated.png": _truncate,
    "bomb.png": _bomb,
    "text.jpg": lambda path: path.write_text("no picture"),
    "empty.webp": Path.touch,
}
REASONS = {
    "truncated.png": "broken or truncated (",
    "bomb.png": "more than 100 megapixels",
    "text.jpg": "not a picture",
    "empty.webp": "not a picture",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_is_named_and_left_out_on_request_only(
    name: str, few: Path, quick: list[object], tmp_path: Path
) -> None:
    BAD[name](few / name)
    with (few / "metadata.jsonl").open("a") as rows:
        rows.write(json.dumps({"file_name": name, "text": "a red star"}))
    result = run("prompts", few, *quick)
    words = f"1 of 9 pictures in '{few}' cannot be read: {name} ("
    _check_refused(result, words, REASONS[name], "leave them out with --skip-bad")
    assert not (tmp_path / "result.json").exists()
    result = run("prompts", few, *quick, "--skip-bad")
    found = _check(result, tmp_path / "result.json", "prompts", "clip_t")
    assert [*found["left_out"]] == [str(few / name)]
    assert found["settings"]["pictures"] == 8
    assert result.stderr.startswith("diffusteer: warning: 1 of 9 pictures in")
    assert result.stderr.endswith("; left out\n")


def test_statistics_leave_bad_pictures_out_too(
    few: Path, quick: list[object], tmp_path: Path
) -> None:
    _truncate(few / "truncated.png")
    file = tmp_path / "s.safetensors"
    _check_refused(run("statistics", few, file, *quick[:4]), "truncated.png", "--skip-bad")
    assert not file.exists()
    result = run("statistics", few, file, *quick[:4], "--skip-bad")
    assert (result.exit_code, file.exists()) == (0, True)
    assert result.stderr.startswith("diffusteer: warning: 1 of 9 pictures in")


def test_many_bad_pictures_are_counted(few: Path, quick: list[object], tmp_path: Path) -> None:
    for name, spoil in BAD.items():
        spoil(few / name)
    _check_refused(run("emblem", few, *quick), "4 of 12 pictures in", " and 1 more; repair")
    bad = tmp_path / "bad"
    bad.mkdir()
    for name, spoil in BAD.items():
        spoil(bad / name)
    result = run("distribution", bad, few, *quick, "--skip-bad")
    _check_refused(result, "4 of 4 pictures in", "; give a folder of pictures")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("emblem ABSENT", "there is nothing at "),
        ("emblem EMPTY", "holds no pictures: expected files ending in"),
        ("emblem FILE", "file.txt'; expected a folder of pictures"),
        ("distribution FEW EMPTY", "empty' holds no pictures"),
        ("distribution FEW ONE", "one' holds 1 picture that can be read; at least 2"),
        ("distribution FEW ABSENT", "absent'; expected a folder"),
        ("distribution FEW FILE --metric fid", "file.txt' holds no statistics"),
        ("distribution FEW FEW --metric is", "no metric 'is'; expected any of fid, kid, prdc"),
        ("distribution FEW FEW --extractor clop", "no extractor 'clop'; did you mean"),
        ("distribution FEW FEW --extractor clip:ABSENT", "not found: expected an existing folder"),
        ("prompts FEW --extractor inception-v9", "no extractor 'inception-v9'"),
        ("prompts FEW --extractor emblem-classifier", "takes no texts: use emblem-clip"),
        ("prompts FEW --reward pikscore", "no reward 'pikscore'; did you mean 'pickscore'"),
        ("prompts FEW --prompts ABSENT", "cannot read prompts from"),
        ("prompts FEW --prompts FILE", "has 1 prompts for 8 pictures"),
        ("prompts ONE", "one' have no prompt, the first is"),
        ("emblem FEW --prompts LINES", "caption is 'a house'; expected the form"),
        ("subject FEW ONE --identity emblem-clip", "extractors must be of different kinds"),
        ("multi FEW ONE", "is in no folder; expected a folder of references"),
        ("multi FEW CONCEPTS --detector yolo", "no detector 'yolo'"),
        ("multi FEW CONCEPTS --margin -1", "margin must be a finite number from 0 up, found -1.0"),
        ("emblem FEW --seed -1", "seed"),
        ("emblem FEW --batch-size 0", "batch_size"),
        ("emblem FEW --device abacus", "abacus"),
        ("emblem FEW --cache FILE", "cannot keep features in"),
        ("emblem FEW --out FILE/x.json", "cannot write to out folder"),
        ("emblem FEW --out EMPTY", "is a folder; expected a file to write"),
        ("statistics FEW EMPTY", "is a folder; expected a file to write"),
        ("statistics FEW FILE/x.safetensors", "cannot write to out folder"),
        ("statistics ONE NEW", "holds 1 picture"),
        ("emblem", "Missing argument 'GENERATED'; see"),
        ("emblem FEW --sede 1", "No such option: --sede"),
        ("emblems FEW", "No such command 'emblems'"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    command: str, words: str, few: Path, concepts: Path, tmp_path: Path, quick: list[object]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    with Image.open(few / "000000.png") as image:
        image.save(tmp_path / "one" / "a.png")
    (tmp_path / "file.txt").write_text("a red star\n")
    (tmp_path / "lines.txt").write_text("a house\n" * 8)
    names = ("absent", "concepts", "empty", "few", "file.txt", "lines.txt", "new", "one")
    places = {name.split(".")[0].upper(): str(tmp_path / name) for name in names}
    before = _files(tmp_path)
    name, *arguments = command.split()
    for word, place in places.items():
        arguments = [argument.replace(word, place) for argument in arguments]
    options = quick[:4] if name == "statistics" else quick
    _check_refused(run(name, *options, *arguments), words)
    assert _files(tmp_path) == before


def _files(folder: Path) -> set[Path]:
    """What is below a folder, but for kept features."""
    return {path for path in folder.rglob("*") if "cache" not in path.parts}


def test_help_teaches_and_costs_nothing() -> None:
    alone = run()
    assert alone.exit_code == 0
    for command in ("distribution", "statistics", "prompts", "subject", "multi", "emblem"):
        assert command in alone.stdout
        shown = run(command, "--help")
        assert (shown.exit_code, shown.stderr) == (0, "")
        assert f"Example: diffusteer evaluate {command} " in " ".join(shown.stdout.split())
    check = (
        "import sys, apps.cli; print([x for x in ('torch', 'transformers') if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_verbose_shows_where_it_went_wrong(tmp_path: Path, quick: list[object]) -> None:
    result = run("emblem", tmp_path / "absent", "--verbose", *quick)
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("diffusteer: error: ")
