"""Comparisons: their rows, their table and their files."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apps.compare.run import Cell
from apps.demo.comparing import MINE, CompareRequest, sweepable
from apps.demo.forms import RuleItem, checked
from apps.demo.table import Line, difference, table, write
from apps.generate import Job

STACK = [
    RuleItem(rule="CFG", settings={"scale": 4.0}),
    RuleItem(rule="Rescale", settings={"phi": 0.7}),
]


def wanted(**changes: Any) -> CompareRequest:
    plain = {
        "model": "emblem-unet",
        "prompt": "a red star",
        "kind": "methods",
        "methods": ["No guidance", MINE],
        "stack": [item.model_dump() for item in STACK],
    }
    return checked(CompareRequest, plain | changes)


def test_methods_are_rows_in_the_order_chosen() -> None:
    rows = wanted().rows()
    assert list(rows) == ["No guidance", MINE]
    assert rows["No guidance"] == []
    assert rows[MINE] == STACK


def test_a_sweep_changes_one_setting_alone() -> None:
    rows = wanted(kind="setting", setting="1.phi", values="0, 0.5,1").rows()
    assert [items[1].settings for items in rows.values()] == [{"phi": v} for v in (0, 0.5, 1)]
    assert all(items[0] == STACK[0] for items in rows.values())
    assert list(rows)[1] == "Rescale phi 0.5"


def test_numbers_of_a_stack_can_be_swept() -> None:
    assert sweepable(STACK) == [("1 CFG: scale", "0.scale"), ("2 Rescale: phi", "1.phi")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["CFG 4"]}, "at least two methods"),
        ({"methods": ["CFG 4", "/etc/passwd"]}, "methods 2"),
        ({"methods": ["CFG 4"] * 9}, "at most 8"),
        ({"kind": "setting", "setting": None, "values": "1,2"}, "choose which setting"),
        ({"kind": "setting", "setting": "7.scale", "values": "1,2"}, "choose which setting"),
        ({"kind": "setting", "setting": "0.scale", "values": "1"}, "2 to 8 different numbers"),
        ({"kind": "setting", "setting": "0.scale", "values": "1,1"}, "2 to 8 different numbers"),
        ({"kind": "setting", "setting": "0.scale", "values": "1,x"}, "numbers with commas"),
        ({"kind": "setting", "setting": "0.scale", "values": "1,nan"}, "finite"),
        ({"prompt": "  "}, "prompt: write what to draw"),
        ({"pictures": 99}, "pictures: input should be less than or equal to 8"),
        ({"steps": 2.5}, "steps"),
    ],
)
def test_wrong_comparisons_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        wanted(**changes).rows()
    assert "\n" not in str(refusal.value)


def cell(colour: str, seed: int, accuracy: float | None = None) -> Cell:
    return Cell("rule", Job("<b>", seed), Image.new("RGB", (8, 8), colour), 20, 0.5, accuracy)


def line(label: str, colour: str, accuracy: float | None = None) -> Line:
    cells = (cell(colour, 0, accuracy), cell(colour, 1, accuracy))
    return Line(label, "<i>rule</i>", tuple(each.image for each in cells), cells)


def test_the_table_shows_what_it_has_and_escapes_it() -> None:
    shown = table([line("<script>", "red", 1.0), Line("later", "CFG")], [0, 1])
    assert "<script>" not in shown and "<i>" not in shown
    assert shown.count('<img class="pictures small"') == 2
    assert shown.count('class="blank"') == 2
    assert "100%" in shown and ">20</td>" in shown and ">1</td>" in shown
    assert "as prompted" not in table([line("a", "red")], [0, 1])


def test_the_difference_is_black_where_pictures_agree() -> None:
    red, other = Image.new("RGB", (2, 2), (200, 0, 0)), Image.new("RGB", (2, 2), (190, 0, 100))
    assert difference(red, red).getpixel((0, 0)) == (0, 0, 0)
    assert difference(red, other).getpixel((0, 0)) == (30, 0, 255)


def test_files_of_a_comparison(tmp_path: Path) -> None:
    from tests.apps.test_pictures import SETTINGS

    pack = write(tmp_path, [line("a", "red", 1.0), line("b", "blue", 0.0)], [dict(SETTINGS)] * 2)
    pictures = ["1-0.png", "1-1.png", "2-0.png", "2-1.png"]
    with zipfile.ZipFile(pack) as archive:
        assert archive.namelist() == [*pictures, "compare.csv", "difference.png", "grid.png"]
    with (tmp_path / "compare.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == pictures
    assert [row["as_prompted"] for row in rows] == ["1.0", "1.0", "0.0", "0.0"]
    with Image.open(tmp_path / "2-1.png") as image:
        assert image.getpixel((0, 0)) == (0, 0, 255)
        assert '"seed": 1' in image.info["diffusteer"]
