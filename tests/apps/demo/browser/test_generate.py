"""Generate in Chromium."""

from __future__ import annotations

import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.apps.demo.browser.visit import (
    bring,
    download,
    holds,
    press,
    put,
    refused,
    shows,
    slide,
    told,
    until,
)
from tests.apps.demo.conftest import GRADIO

pytestmark = GRADIO


def draw_one(page: Any) -> None:
    slide(page, "Steps", 2)
    slide(page, "Pictures", 1)
    press(page, "Generate")
    told(page, "1 pictures in")


def draw_for_long(page: Any) -> None:
    slide(page, "Steps", 100)
    press(page, "Generate")
    told(page, re.compile(r"Drawing: \d+%"))


def test_main_path_and_back_from_the_file(page: Any, tmp_path: Path) -> None:
    put(page, "CFG Scale", 6)
    page.get_by_label("Add a rule").select_option("Rescale")
    press(page, "Move Rescale up")
    cards = page.locator(".rules .rule header strong")
    assert cards.all_inner_texts() == ["Rescale", "CFG"]
    slide(page, "Steps", 4)
    slide(page, "Pictures", 2)
    press(page, "Generate")
    told(page, re.compile(r"2 pictures in .* 8 evaluations each"))
    press(page, "Thumbnail 2 of 2")
    settings = page.locator(".settings textarea")
    page.wait_for_function("e => e.value.includes('Seed: 1')", arg=settings.element_handle())
    assert "Guidance: Rescale() + CFG(scale=6.0)" in settings.input_value()

    download(page, "Download pictures and report", tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.namelist() == ["000-0.png", "001-1.png", "report.csv"]
        archive.extract("001-1.png", tmp_path)

    page.reload()
    cards.first.wait_for()
    assert cards.all_inner_texts() == ["CFG"]
    page.get_by_text("Take the settings from a picture").click()
    bring(page, [tmp_path / "001-1.png"])
    page.get_by_role("button", name="Remove Rescale").wait_for()
    assert cards.all_inner_texts() == ["Rescale", "CFG"]
    holds(page, "CFG Scale", 6)
    holds(page, "Seed of the first", 1)


def test_wrong_input(page: Any, photo: Path) -> None:
    put(page, "Prompt", "")
    press(page, "Generate")
    refused(page, "prompt: write what to draw")
    put(page, "Prompt", "<img src=x onerror=alert(1)>")
    page.get_by_label("Add a rule").select_option("CFG")
    press(page, "Generate")
    refused(page, "at most one rule may own the uncond direction")
    page.get_by_label("Start from a preset").select_option("Not red, by PerpNeg")
    page.get_by_label("Negative 1", exact=True).fill("")
    press(page, "Generate")
    refused(page, "write what the pictures should not show")
    page.get_by_text("Take the settings from a picture").click()
    bring(page, [photo])
    refused(page, "this picture carries no settings")


@pytest.mark.usefixtures("slow")
def test_stop(page: Any) -> None:
    draw_for_long(page)
    press(page, "Stop")
    told(page, "Stopped.")
    draw_one(page)


@pytest.mark.usefixtures("slow")
def test_leaving_ends_the_run_and_deletes_the_pictures(
    page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    draw_one(page)
    shows(page, 1)
    assert [*tmp_path.glob("diffusteer-*/drawn-*/*.png")]
    draw_for_long(page)
    page.reload()
    until(page, lambda: not [*tmp_path.iterdir()])
    draw_one(page)
