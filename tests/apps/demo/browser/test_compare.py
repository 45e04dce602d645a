"""Compare in Chromium."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.apps.demo.browser.visit import (
    come_back,
    download,
    go_to,
    press,
    put,
    refused,
    slide,
    told,
)
from tests.apps.demo.conftest import GRADIO

pytestmark = GRADIO


def compare_for_long(page: Any) -> None:
    slide(page, "Steps", 100)
    press(page, "Compare")
    told(page, re.compile(r"Row 1 of 4: \d+%"))


def compare_in_one_step(page: Any) -> None:
    slide(page, "Steps", 1)
    slide(page, "Seeds", 1)
    press(page, "Compare")
    told(page, "4 rows of 1 pictures in")


def test_main_path(page: Any, tmp_path: Path) -> None:
    go_to(page, "Compare")
    slide(page, "Steps", 2)
    slide(page, "Seeds", 2)
    press(page, "Compare")
    told(page, "4 rows of 2 pictures in")
    grid = page.locator(".grid")
    grid.get_by_text("as prompted").wait_for()
    assert grid.locator("tbody tr").count() == 4
    assert not grid.locator("img.differences").first.is_visible()
    page.wait_for_function("document.querySelector('.grid img').naturalWidth == 64")
    grid.get_by_label("Show the difference").check()
    grid.locator("img.differences").first.wait_for()
    download(page, "Download all", tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert {"1-0.png", "4-1.png", "grid.png", "compare.csv"} <= {*archive.namelist()}


def test_one_setting_and_its_wrong_values(page: Any) -> None:
    go_to(page, "Compare")
    slide(page, "Steps", 2)
    slide(page, "Seeds", 1)
    page.get_by_label("One setting of my rules").check()
    put(page, "Values", "1, two")
    press(page, "Compare")
    refused(page, "values must be numbers with commas between them")
    put(page, "Values", "1, 3")
    press(page, "Compare")
    told(page, "2 rows of 1 pictures in")
    told(page, "CFG scale 3")


@pytest.mark.usefixtures("slow")
def test_stop(page: Any) -> None:
    go_to(page, "Compare")
    compare_for_long(page)
    press(page, "Stop")
    told(page, "Stopped after 0 rows.")
    compare_in_one_step(page)


@pytest.mark.usefixtures("slow")
def test_reload(page: Any) -> None:
    go_to(page, "Compare")
    compare_for_long(page)
    come_back(page, "Compare")
    told(page, "Each row is drawn from the same noise")
    compare_in_one_step(page)
