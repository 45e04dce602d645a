"""Prompts are read from where they are, in the documented order, and never made up."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL.PngImagePlugin import PngInfo

from apps.evaluate.pictures.captions import Row, read_rows
from tests.apps.evaluate.tiny_networks import picture

A1111 = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 64x64, Model: sd"


def save(folder: Path, *names: str, **texts: str) -> Path:
    """Save pictures with texts inside."""
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(0).save(folder / name, pnginfo=info)
    return folder


def write_rows(path: Path, *rows: Row) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(folder: Path, names: Sequence[str], source: Path | None = None) -> list[str]:
    return [row["text"].strip() for row in read_rows(folder, names, source)]


def fails(folder: Path, names: Sequence[str], source: Path | None = None) -> str:
    with pytest.raises(ValueError) as caught:
        read_rows(folder, names, source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nearer_sources_win(tmp_path: Path) -> None:
    save(tmp_path, "a.png", diffusteer='{"prompt": "own"}', parameters=f"other\n{A1111}")
    assert texts(tmp_path, ["a.png"]) == ["own"]
    (tmp_path / "a.txt").write_text("beside\n")
    assert texts(tmp_path, ["a.png"]) == ["beside"]
    write_rows(tmp_path / "metadata.jsonl", {"file_name": "a.png", "text": "metadata"})
    assert texts(tmp_path, ["a.png"]) == ["metadata"]
    source = tmp_path / "prompts.txt"
    source.write_text("explicit\n")
    assert texts(tmp_path, ["a.png"], source) == ["explicit"]


def test_each_picture_has_its_own_source(tmp_path: Path) -> None:
    save(tmp_path, "a.png", "x/b.png", parameters=f"within\n{A1111}")
    (tmp_path / "x/b.txt").write_text("beside")
    assert texts(tmp_path, ["x/b.png", "a.png"]) == ["beside", "within"]


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        (f"a red star\n{A1111}", "a red star"),
        (f"a red star\nNegative prompt: blur\n{A1111}", "a red star"),
        (f"a star,\nin two lines\nNegative prompt: blur\n{A1111}", "a star,\nin two lines"),
        (f"a star\nSteps: few\nNegative prompt:\nSteps: many\n{A1111}", "a star\nSteps: few"),
        (f"a red star\n{A1111}\nTemplate: a {{red|blue}} star", "a red star"),
        ("a red star", "a red star"),
        ("a star: Steps: of a stair", "a star: Steps: of a stair"),
    ],
)
def test_parameters(tmp_path: Path, text: str, prompt: str) -> None:
    assert texts(save(tmp_path, "a.png", parameters=text), ["a.png"]) == [prompt]


@pytest.mark.parametrize("text", [f"Negative prompt: blur\n{A1111}", A1111, ""])
def test_parameters_without_prompt(tmp_path: Path, text: str) -> None:
    assert "1 of 1 pictures" in fails(save(tmp_path, "a.png", parameters=text), ["a.png"])


@pytest.mark.parametrize("text", ["{", "[]", "3", "null", "{}", '{"prompt": 3}', '{"prompt": " "}'])
def test_broken_metadata_is_no_prompt(tmp_path: Path, text: str) -> None:
    found = fails(save(tmp_path, "a.png", diffusteer=text), ["a.png"])
    assert "have no prompt, the first is a.png; give a file with --prompts" in found


def test_lines_go_to_pictures_by_name(tmp_path: Path) -> None:
    save(tmp_path, "b.png", "a.png", "c/a.png")
    source = tmp_path / "prompts.txt"
    source.write_text("\ufeffone\n\n  two \u2028 parts \r\nthree\n\n", encoding="utf-8")
    names = ["c/a.png", "a.png", "b.png"]
    assert texts(tmp_path, names, source) == ["three", "one", "two \u2028 parts"]
    assert texts(tmp_path, ["b.png"], source) == ["two \u2028 parts"]  # the others are left out


@pytest.mark.parametrize("lines", [["one"], ["one", "two", "three"], []])
def test_wrong_count(tmp_path: Path, lines: list[str]) -> None:
    save(tmp_path, "a.png", "b.png")
    source = tmp_path / "prompts.txt"
    source.write_text("\n".join(lines))
    expected = f"has {len(lines)} prompts for 2 pictures; expected one for each"
    assert expected in fails(tmp_path, ["a.png", "b.png"], source)
    rows = write_rows(tmp_path / "rows.jsonl", *({"text": line} for line in lines))
    assert expected in fails(tmp_path, ["a.png", "b.png"], rows)


def test_rows(tmp_path: Path) -> None:
    save(tmp_path, "a.png", "x/b.png")
    named: list[Row] = [
        {"file_name": "./x/b.png", "text": "b", "n": 1},
        {"file_name": "a.png", "text": "a"},
    ]
    source = write_rows(tmp_path / "ROWS.JSONL", *named, {"file_name": "gone.png", "text": "?"})
    assert read_rows(tmp_path, ["x/b.png", "a.png"], source) == named
    source = write_rows(tmp_path / "rows.jsonl", {"text": "first"}, {"text": "second"})
    assert texts(tmp_path, ["x/b.png", "a.png"], source) == ["second", "first"]


def test_metadata_of_folders(tmp_path: Path) -> None:
    save(tmp_path, "a.png", "x/b.png", "x/deep/c.png", "y/d.png", "y/e.png")
    write_rows(
        tmp_path / "metadata.jsonl",
        *({"file_name": name, "text": f"root {name}"} for name in ("a.png", "x/b.png", "y/e.png")),
    )
    write_rows(
        tmp_path / "x/metadata.jsonl",
        *({"file_name": name, "text": f"x {name}"} for name in ("b.png", "deep/c.png")),
    )
    names = ["a.png", "x/b.png", "x/deep/c.png", "y/e.png"]
    expected = ["root a.png", "x b.png", "x deep/c.png", "root y/e.png"]
    assert texts(tmp_path, names) == expected
    assert "1 of 5 pictures" in fails(tmp_path, [*names, "y/d.png"])
    write_rows(tmp_path / "y/metadata.jsonl", {"text": "y d"}, {"text": "y e"})
    assert texts(tmp_path, ["y/e.png", "y/d.png", *names[:3]]) == ["y e", "y d", *expected[:3]]


def test_metadata_of_subjects_alone(tmp_path: Path) -> None:
    save(tmp_path, "cat/a.png", "dog/a.png")
    for name in ("cat", "dog"):
        write_rows(tmp_path / name / "metadata.jsonl", {"file_name": "a.png", "text": f"a {name}"})
    assert texts(tmp_path, ["dog/a.png", "cat/a.png"]) == ["a dog", "a cat"]


def test_missing_prompts_are_counted_and_named(tmp_path: Path) -> None:
    save(tmp_path, "a.png", "b.png", "c.png", "d.png")
    rows: list[Row] = [
        {"file_name": "a.png", "text": "a"},
        {"file_name": "c.png", "text": " "},
        {"file_name": "d.png", "text": 4},
    ]
    write_rows(tmp_path / "metadata.jsonl", *rows)
    found = fails(tmp_path, ["d.png", "a.png", "b.png", "c.png"])
    assert "3 of 4 pictures" in found and "the first is d.png" in found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{'text': 1}", "is no JSON ("),
        ('{"text": "cut', "is no JSON ("),
        ('["a"]', "is no JSON object: "),
        ('{"text": "without name"}', "has no file_name, others have one"),
    ],
)
def test_broken_line(tmp_path: Path, line: str, expected: str) -> None:
    save(tmp_path, "a.png", "b.png")
    content = '{"file_name": "a.png", "text": "a"}\n\n' + line + "\n"
    (tmp_path / "metadata.jsonl").write_text(content)
    found = fails(tmp_path, ["a.png", "b.png"])
    assert re.match(r"line 3 of '.*metadata\.jsonl' " + re.escape(expected), found)


@pytest.mark.parametrize("name", ["prompts.txt", "metadata.jsonl", "a.txt"])
def test_text_that_is_not_utf8(tmp_path: Path, name: str) -> None:
    save(tmp_path, "a.png")
    (tmp_path / name).write_bytes(b"caf\xe9\n")
    source = tmp_path / name if name == "prompts.txt" else None
    assert re.fullmatch(
        f"cannot read prompts from '.*{name}': not UTF-8 text",
        fails(tmp_path, ["a.png"], source),
    )


def test_absent_source(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    found = fails(tmp_path, ["a.png"], tmp_path / "absent.txt")
    assert found.endswith("absent.txt': No such file or directory")
