"""The demo in Chromium: the main path of each tab, a wrong input in each, stop, reload."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

# Gradio 6 uses pandas in ways that pandas 4 will drop, and leaves event loops open.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pandas.errors.Pandas4Warning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)

HEAD = "mid_block.attentions.0.transformer_blocks.0.attn1"


def go_to(page: Any, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).locator("visible=true").click()


def put(page: Any, label: str, value: object) -> None:
    beside = (
        page.locator("label").filter(has_text=label).locator("input:not([type=radio]), textarea")
    )
    field = page.get_by_label(label, exact=True).or_(beside).locator("visible=true").first
    field.fill(str(value))
    field.press("Tab")


def slide(page: Any, label: str, value: int) -> None:
    put(page, f"number input for {label}", value)


def told(page: Any, text: str | re.Pattern[str]) -> Any:
    line = page.get_by_text(text).locator("visible=true").first
    line.wait_for()
    return line


def refused(page: Any, text: str) -> None:
    """A message appears; close it."""
    toast = page.get_by_test_id("toast-body").filter(has_text=text)
    toast.first.wait_for()
    for close in page.get_by_test_id("toast-close").all():
        close.click()


def test_generate(page: Any, tmp_path: Path) -> None:
    put(page, "CFG Scale", 6)
    page.get_by_label("Add a rule").select_option("Rescale")
    page.get_by_role("button", name="Move Rescale up").click()
    cards = page.locator(".rules .rule header strong")
    assert cards.all_inner_texts() == ["Rescale", "CFG"]
    slide(page, "Steps", 4)
    slide(page, "Pictures", 2)
    press(page, "Generate")
    told(page, re.compile(r"2 pictures in .* 8 evaluations each"))
    page.get_by_role("button", name="Thumbnail 2 of 2").click()
    settings = page.locator(".settings textarea")
    page.wait_for_function("e => e.value.includes('Seed: 1')", arg=settings.element_handle())
    assert "Guidance: Rescale() + CFG(scale=6.0)" in settings.input_value()

    with page.expect_download() as waiting:
        page.get_by_text("Download pictures and report").click()
    waiting.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.namelist() == ["000-0.png", "001-1.png", "report.csv"]
        archive.extract("001-1.png", tmp_path)

    page.reload()
    page.get_by_role("button", name="Generate", exact=True).wait_for()
    page.locator(".rules .rule").first.wait_for()
    assert cards.all_inner_texts() == ["CFG"]
    page.get_by_text("Take the settings from a picture").click()
    page.locator("input[type=file][accept='.png']").first.set_input_files(tmp_path / "001-1.png")
    page.get_by_role("button", name="Remove Rescale").wait_for()
    assert cards.all_inner_texts() == ["Rescale", "CFG"]
    assert page.get_by_label("CFG Scale", exact=True).input_value() == "6"
    assert page.get_by_label("Seed of the first").input_value() == "1"


def test_generate_stops_and_goes_on(page: Any) -> None:
    slide(page, "Steps", 100)
    press(page, "Generate")
    told(page, re.compile(r"Drawing: \d+%"))
    press(page, "Stop")
    told(page, "Stopped.")
    slide(page, "Steps", 2)
    slide(page, "Pictures", 1)
    press(page, "Generate")
    told(page, "1 pictures in")


def test_generate_refuses_what_is_wrong(page: Any) -> None:
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


def test_compare(page: Any) -> None:
    go_to(page, "Compare")
    slide(page, "Steps", 2)
    slide(page, "Seeds", 2)
    press(page, "Compare")
    told(page, "4 rows of 2 pictures in")
    grid = page.locator(".grid")
    assert grid.locator("tbody tr").count() == 4
    assert grid.locator("img.pictures").first.evaluate("e => e.naturalWidth") == 64
    assert not grid.locator("img.differences").first.is_visible()
    grid.get_by_label("Show the difference").check()
    assert grid.locator("img.differences").first.is_visible()

    page.get_by_label("One setting of my rules").check()
    put(page, "Values", "1, two")
    press(page, "Compare")
    refused(page, "values must be numbers with commas between them")
    put(page, "Values", "1, 3")
    press(page, "Compare")
    told(page, "2 rows of 2 pictures in")
    assert "CFG scale 3" in grid.inner_text()


def test_heads(page: Any) -> None:
    go_to(page, "Heads")
    slide(page, "Steps", 2)
    press(page, "None")
    press(page, "Draw without and with")
    refused(page, "heads: list should have at least 1 item")
    page.get_by_role("button", name=f"Head {HEAD}:2").click()
    press(page, "Draw without and with")
    told(page, "1 heads softened.")
    assert page.locator(".grid:visible tbody tr").count() == 2

    page.get_by_text("Search for heads (HeadHunter)").click()
    slide(page, "Pictures of each trial", 1)
    page.get_by_label("number input for Steps").locator("visible=true").last.fill("4")
    press(page, "Search")
    told(page, re.compile(r"\d+ of 29 pictures"))
    press(page, "Stop the search")
    told(page, "Stopped.")


def test_personalize(page: Any, photo: Path, tmp_path: Path) -> None:
    go_to(page, "Personalize")
    slide(page, "Steps", 2)
    slide(page, "Photos at each step", 1)
    press(page, "Train")
    refused(page, "bring 1 to 50 pictures, found 0")
    press(page, "Take five example photos: a ringed star, new to the model")
    page.get_by_role("button", name=re.compile("Thumbnail 5 of 5")).wait_for()
    put(page, "Word to learn", "my thing")
    press(page, "Train")
    refused(page, "word: string should match pattern")
    put(page, "Word to learn", "<my-thing>")
    press(page, "Train")
    told(page, "Learned. Write <my-thing> in the prompt below.")
    with page.expect_download() as waiting:
        page.get_by_text("Download the learned file").click()
    assert waiting.value.suggested_filename == "perfusion.safetensors"
    press(page, "Draw with the word")
    told(page, "4 pictures in")


def test_evaluate(page: Any, tmp_path: Path) -> None:
    go_to(page, "Evaluate")
    press(page, "Evaluate")
    refused(page, "bring 6 to 500 pictures, found 0")
    press(page, "Take 64 fresh pictures of the Emblem world")
    page.get_by_role("button", name=re.compile("Thumbnail 64 of 64")).wait_for(state="attached")
    files = []
    for number, colour in enumerate(("red", "green", "blue", "white", "pink", "orange")):
        files.append(tmp_path / f"{number}.png")
        Image.new("RGB", (64, 64), colour).save(files[-1])
    panel = page.get_by_role("tabpanel").locator("visible=true")
    panel.locator("input[type=file]").first.set_input_files(files)
    page.get_by_role("button", name=re.compile("Thumbnail 6 of 6")).wait_for()
    press(page, "Evaluate")
    told(page, "7 scores, with 95 % intervals.")
    told(page, "Frechet distance")


def test_a_narrow_window_needs_no_scrolling_sideways(page: Any) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.reload()
    page.locator(".rules .rule").first.wait_for()
    page.wait_for_function("document.documentElement.scrollWidth <= 400")
