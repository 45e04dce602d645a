"""Reports: which results share a table, what it says, and which pictures are shown."""

from __future__ import annotations

import csv
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.lines import Line2D
from PIL import Image
from typer.testing import CliRunner

from apps.evaluate.cli import app
from apps.evaluate.reporting.figures import plot_fidelity, plot_scores
from apps.evaluate.reporting.groups import grouped, named, scores_of
from apps.evaluate.reporting.markdown import escape
from apps.evaluate.reporting.pictures import extremes
from apps.evaluate.reporting.report import report
from apps.evaluate.result import Images, Result, Score

HASH = "0123456789abcdef" * 4
ABOUT = "mean cosine"


def make(
    folder: Path,
    value: float = 0.5,
    *,
    settings: Mapping[str, Any] | None = None,
    values: Sequence[float | None] = (0.4, 0.6),
    better: str = "higher",
    text: str = "a red star",
) -> Result:
    """A result of the protocol ``prompts`` on pictures 00.png, 01.png ..."""
    names = tuple(f"{number:02}.png" for number in range(len(values)))
    return Result(
        protocol="prompts",
        settings=settings or {"extractor": {"name": "emblem-clip", "weights": HASH}, "seed": 0},
        scores=(
            Score("clip_t", value, (value - 0.1, value + 0.1), len(values), ABOUT, better),
            Score("odd", math.nan, None, 0, "never measured", "neither"),
        ),
        images=Images(str(folder), names, {"clip_t": tuple(values)}, (text,) * len(names)),
        left_out={f"{folder}/bad.png": "not a picture"},
        provenance={"device": "cpu", "versions": {"torch": "2.13"}},
    )


def write(path: Path, result: Result) -> Path:
    result.write(path)
    return path


def paint(folder: Path, count: int) -> None:
    """Pictures whose red tells their number."""
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (64, 64), (10 * number, 0, 0)).save(folder / f"{number:02}.png")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(page: str) -> list[list[list[str]]]:
    """The cells of all tables."""
    blocks = [block for block in page.split("\n\n") if block.startswith("|")]
    return [[cells(line) for line in block.splitlines()] for block in blocks]


def test_a_report_has_numbers_definitions_and_origin(tmp_path: Path) -> None:
    paint(tmp_path / "plain", 2)
    paint(tmp_path / "guided", 2)
    files = [
        write(tmp_path / "a.json", make(tmp_path / "plain", 0.5)),
        write(tmp_path / "b.json", make(tmp_path / "guided", 0.75)),
    ]
    file = report(files, tmp_path / "out")
    assert file == tmp_path / "out" / "report.md"
    page = file.read_text()
    scores, settings, origin, *_ = tables(page)
    assert scores == [
        ["metric", "better", "plain", "guided"],
        ["---"] * 4,
        ["clip_t", "higher", "0.5 (0.4 to 0.6), n = 2", "0.75 (0.65 to 0.85), n = 2"],
        ["odd", "neither", "nan, n = 0", "nan, n = 0"],
    ]
    assert "- clip_t: mean cosine\n- odd: never measured" in page
    assert settings[2:] == [
        ["extractor.name", "emblem-clip"],
        ["extractor.weights", HASH[:12]],
        ["seed", "0"],
    ]
    assert origin[0] == ["made by", "plain", "guided"]
    assert origin[2:] == [
        ["result", str(files[0]), str(files[1])],
        ["device", "cpu", "cpu"],
        ["versions.torch", "2.13", "2.13"],
    ]
    assert f"Left out of plain (1): {tmp_path}/plain/bad.png (not a picture)\n" in page
    links = re.findall(r"\]\((.*?)\)", page)
    assert links == [
        "prompts.png",
        "pictures/prompts-plain-clip_t.png",
        "pictures/prompts-guided-clip_t.png",
    ]
    assert all((tmp_path / "out" / link).is_file() for link in links)


def test_other_settings_have_another_table(tmp_path: Path) -> None:
    other = {"extractor": {"name": "emblem-clip", "weights": "f" * 64}, "seed": 0}
    results = [make(Path("a")), make(Path("b"), settings=other), make(Path("c"))]
    files = [write(tmp_path / f"{i}.json", result) for i, result in enumerate(results)]
    page = report(files, tmp_path / "out").read_text()
    heads = [table[0] for table in tables(page) if table[0][0] == "metric"]
    assert heads == [["metric", "better", "a", "c"], ["metric", "better", "b"]]
    line = f"extractor.weights is '{HASH[:12]}' and 'ffffffffffff'."
    assert f"## prompts 2\n\nNot to be compared with the results above: {line}\n" in page


def test_protocols_are_apart() -> None:
    one = make(Path("a"))
    two = Result("emblem", one.settings, (), None)
    groups = grouped({Path("1.json"): one, Path("2.json"): two, Path("3.json"): make(Path("b"))})
    assert {protocol: [list(group) for group in found] for protocol, found in groups.items()} == {
        "prompts": [["a", "b"]],
        "emblem": [["2"]],
    }


def test_names_are_unique() -> None:
    def names(*pairs: tuple[str, str]) -> list[str]:
        return list(named({Path(file): make(Path(folder)) for file, folder in pairs}))

    assert names(("x/1.json", "runs/a"), ("x/2.json", "runs/b")) == ["a", "b"]
    assert names(("x/1.json", "runs/a"), ("x/2.json", "other/A")) == ["1", "2"]
    assert names(("x/1.json", "runs/a"), ("y/1.json", "other/a")) == ["1-1", "2-1"]
    assert names(("x/1.json", ".")) == ["1"]


def test_csv_has_one_row_for_each_score(tmp_path: Path) -> None:
    file = write(tmp_path / "a, b.json", make(tmp_path / "gone", 1 / 3))
    report([file], tmp_path / "out")
    with (tmp_path / "out" / "report.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["metric"] for row in rows] == ["clip_t", "odd"]
    first, odd = rows
    assert (first["file"], first["protocol"], first["better"]) == (str(file), "prompts", "higher")
    numbers = [float(first[key]) for key in ("value", "low", "high", "n")]
    assert numbers == [1 / 3, 1 / 3 - 0.1, 1 / 3 + 0.1, 2]
    assert [odd[key] for key in ("value", "low", "high", "n")] == ["", "", "", "0"]


def chosen(values: Sequence[float | None], better: str) -> dict[str, list[int]]:
    images = make(Path("x"), values=values).images
    assert images is not None
    picks = extremes(images, "clip_t", better)
    return {row: [int(pick.name[:2]) for pick in some] for row, some in picks.items()}


def test_the_most_extreme_pictures_come_first() -> None:
    values = [(7 * number) % 20 / 20 for number in range(20)]
    order = sorted(range(20), key=values.__getitem__)
    assert chosen(values, "higher") == {"best": order[:-9:-1], "worst": order[:8]}
    assert chosen(values, "lower") == {"best": order[:8], "worst": order[:-9:-1]}
    assert chosen(values, "neither") == {"highest": order[:-9:-1], "lowest": order[:8]}


def test_ties_go_by_name_and_no_picture_is_shown_twice() -> None:
    assert chosen([0.5, 1.0, 0.0, 1.0, None, 0.5], "higher") == {"best": [1, 3], "worst": [2, 0]}
    assert chosen([0.0, 0.5, 0.5, 0.5, 0.5, 1.0], "lower") == {
        "best": [0, 1, 2],
        "worst": [5, 3, 4],
    }


def test_only_good_pictures_are_best_and_only_bad_ones_worst() -> None:
    assert chosen([1.0] * 19 + [0.0], "higher") == {"best": [*range(8)], "worst": [19]}
    assert chosen([0.0] * 19 + [1.0], "higher") == {"best": [19], "worst": [*range(8)]}


@pytest.mark.parametrize("values", [[0.5] * 4, [0.5, None], [None, None], []])
def test_equal_values_have_no_extremes(values: list[float | None]) -> None:
    assert chosen(values, "higher") == {}


def test_sheets_show_the_pictures_in_order(tmp_path: Path) -> None:
    paint(tmp_path / "set", 20)
    values = [(7 * number) % 20 / 20 for number in range(20)]
    file = write(tmp_path / "a.json", make(tmp_path / "set", values=values))
    page = report([file], tmp_path / "out").read_text()
    order = sorted(range(20), key=values.__getitem__)
    with Image.open(tmp_path / "out" / "pictures" / "prompts-set-clip_t.png") as sheet:
        heights = (sheet.height // 4, 3 * sheet.height // 4)
        centres = [(column + 0.5) * sheet.width / 8 for column in range(8)]
        shown = [[sheet.getpixel((int(x), y)) for x in centres] for y in heights]
    first = (order[:-9:-1], order[:8])
    assert shown == [[(10 * number, 0, 0) for number in row] for row in first]
    listed = [[row[0], row[1]] for row in tables(page)[-1][2:]]
    assert listed == [
        *(["best", f"{number:02}.png"] for number in first[0]),
        *(["worst", f"{number:02}.png"] for number in first[1]),
    ]


def test_missing_pictures_are_counted_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paint(tmp_path / "set", 4)
    (tmp_path / "set" / "03.png").unlink()
    (tmp_path / "set" / "00.png").write_bytes(b"broken")
    result = make(tmp_path / "set", values=(0.1, 0.2, 0.3, 0.4))
    files = [
        write(tmp_path / "a.json", result),
        write(tmp_path / "b.json", make(tmp_path / "gone")),
    ]
    with caplog.at_level(logging.WARNING, "diffusteer"):
        page = report(files, tmp_path / "out").read_text()
    assert caplog.messages == [
        "4 pictures cannot be read and are not shown, the first is " + str(tmp_path / "set/00.png")
    ]
    assert [path.name for path in (tmp_path / "out" / "pictures").iterdir()] == [
        "prompts-set-clip_t.png"
    ]
    assert "prompts-gone" not in page


def test_names_and_prompts_are_no_markdown(tmp_path: Path) -> None:
    folder = tmp_path / "a|b <i> $c$"
    paint(folder, 2)
    file = write(tmp_path / "a.json", make(folder, text="a <sks>\nstar | *ring*"))
    page = report([file], tmp_path / "out").read_text()
    scores, *_, listed = tables(page)
    assert scores[0][2] == r"a\|b \<i\> $c$"
    assert listed[2] == ["best", "01.png", "0.6", r"a \<sks\> star \| \*ring\*"]
    assert "<summary>pictures of a|b &lt;i&gt; $c$</summary>" in page
    assert "(pictures/prompts-a-b-i-c--clip_t.png)" in page
    assert escape("a\\|b &lt; `x`") == "a\\\\\\|b \\&lt; \\`x\\`"


def points(line: Line2D) -> list[tuple[float, float]]:
    x, y = (np.asarray(part).tolist() for part in line.get_data())
    return list(zip(x, y, strict=True))


@pytest.mark.parametrize("count", [1, 8])
def test_plots_have_a_panel_for_each_metric(count: int) -> None:
    results = {f"_run-{number}": make(Path("x"), number / 10) for number in range(count)}
    figure = plot_scores(scores_of(results), list(results))
    clip, odd = figure.axes
    assert [axis.get_title() for axis in (clip, odd)] == ["clip_t", "odd"]
    assert [label.get_text() for label in clip.get_yticklabels()] == list(results)
    assert [points(line) for line in clip.lines] == [
        line
        for place, value in enumerate(number / 10 for number in range(count))
        for line in ([(value - 0.1, place), (value + 0.1, place)], [(value, place)])
    ]
    assert clip.get_xlabel() == "higher is better" and odd.get_xlabel() == ""


def of_subject(value: float) -> Result:
    interval = (value - 0.1, value + 0.2)
    return Result(
        "subject",
        {},
        (
            Score("clip_i", value, interval, 3, "likeness"),
            Score("clip_t", value / 2, None, 3, "truth"),
            Score("clip_i_real", 0.9, None, 3, "ceiling", "neither"),
        ),
        None,
    )


def test_fidelity_is_drawn_against_the_prompt_for_several_results(tmp_path: Path) -> None:
    files = [write(tmp_path / f"s{i}.json", of_subject(0.5 + i / 10)) for i in range(2)]
    assert "subject-fidelity" not in report(files[:1], tmp_path / "one").read_text()
    assert "](subject-fidelity.png)" in report(files, tmp_path / "two").read_text()
    assert (tmp_path / "two" / "subject-fidelity.png").is_file()
    (axis,) = plot_fidelity(scores_of({"_a": of_subject(0.5), "b": of_subject(0.6)})).axes
    ceiling, *others = map(points, axis.lines)
    assert [y for _, y in ceiling] == [0.9, 0.9]
    assert [line for line in others if len(line) == 1] == [[(0.25, 0.5)], [(0.3, 0.6)]]
    legend = axis.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["real pictures", "1  _a", "2  b"]


def test_the_command_says_where_the_report_is(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", of_subject(0.5))
    out = tmp_path / "deep" / "out"
    found = CliRunner().invoke(app, ["report", str(file), "--out", str(out)])
    assert (found.exit_code, found.stderr) == (0, "")
    assert found.stdout == f"written to {out / 'report.md'}\n"
    found = CliRunner().invoke(app, ["report", str(file), "--out", str(out), "--json"])
    assert json.loads(found.stdout) == {"file": str(out / "report.md")}


def bad_input(tmp_path: Path) -> dict[str, tuple[list[str], Path, str]]:
    good = str(write(tmp_path / "good.json", of_subject(0.5)))
    (tmp_path / "other.json").write_text("[1]")
    (tmp_path / "file").write_text("")
    out = tmp_path / "out"
    return {
        "none": ([], out, "Missing argument 'RESULT.json'"),
        "no result": ([good, str(tmp_path / "other.json")], out, "is no result of diffusteer"),
        "no file": ([good, str(tmp_path / "gone.json")], out, "cannot read result"),
        "folder": ([good, str(tmp_path)], out, "cannot read result"),
        "out": ([good], tmp_path / "file" / "out", "cannot write to out folder"),
    }


@pytest.mark.parametrize("case", ["none", "no result", "no file", "folder", "out"])
def test_bad_input_is_one_line_and_writes_nothing(tmp_path: Path, case: str) -> None:
    files, out, words = bad_input(tmp_path)[case]
    before = sorted(tmp_path.rglob("*"))
    found = CliRunner().invoke(app, ["report", *files, "--out", str(out)])
    assert found.exit_code == 2
    assert words in found.stderr
    assert found.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no results to report"):
        report([], tmp_path / "out")
