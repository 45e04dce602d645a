"""The demo in Chromium: the main path of each tab, a wrong input in each, stop, reload."""

from __future__ import annotations

import re
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apps.evaluate.pictures import workplace
from apps.evaluate.pictures.features import embed
from tests.apps.demo.visit import go_to, holds, press, put, refused, slide, told

# Gradio 6 uses pandas in ways that pandas 4 will drop, and leaves event loops open.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pandas.errors.Pandas4Warning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)

HEAD = "mid_block.attentions.0.transformer_blocks.0.attn1"


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
    holds(page, "CFG Scale", 6)
    holds(page, "Seed of the first", 1)


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
    grid.get_by_text("as prompted").wait_for()
    assert grid.locator("tbody tr").count() == 4
    assert not grid.locator("img.differences").first.is_visible()
    page.wait_for_function("document.querySelector('.grid img').naturalWidth == 64")
    grid.get_by_label("Show the difference").check()
    grid.locator("img.differences").first.wait_for()

    page.get_by_label("One setting of my rules").check()
    put(page, "Values", "1, two")
    press(page, "Compare")
    refused(page, "values must be numbers with commas between them")
    put(page, "Values", "1, 3")
    press(page, "Compare")
    told(page, "2 rows of 2 pictures in")
    told(page, "CFG scale 3")


def test_compare_stops_and_ends_with_the_tab(page: Any) -> None:
    go_to(page, "Compare")
    slide(page, "Steps", 100)
    press(page, "Compare")
    told(page, re.compile(r"Row 1 of 4: \d+%"))
    press(page, "Stop")
    told(page, "Stopped after 0 rows.")
    press(page, "Compare")
    told(page, re.compile(r"Row 1 of 4: \d+%"))
    page.reload()
    go_to(page, "Compare")
    told(page, "Each row is drawn from the same noise")
    slide(page, "Steps", 1)
    slide(page, "Seeds", 1)
    press(page, "Compare")
    told(page, "4 rows of 1 pictures in")


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


def start_a_long_search(page: Any) -> None:
    page.get_by_text("Search for heads (HeadHunter)").click()
    slide(page, "Heads to find", 3)
    slide(page, "Pictures of each trial", 8)
    press(page, "Search")
    told(page, re.compile(r"Round 1 of 3: \d+ of 656 pictures"))
    page.locator(".heads .gains, .heads .loses").first.wait_for()


def test_heads_are_searched_for(page: Any) -> None:
    go_to(page, "Heads")
    page.get_by_text("Search for heads (HeadHunter)").click()
    slide(page, "Pictures of each trial", 1)
    page.get_by_label("number input for Steps").last.fill("4")
    press(page, "Search")
    told(page, re.compile(r"Round 1 of 1: \d+ of 29 pictures"))
    told(page, re.compile("Best: .* They are chosen on the map now"))
    told(page, "1 softened")
    assert page.locator(".heads .gains, .heads .loses").count() == 28


def test_a_search_stops_and_ends_with_the_tab(page: Any) -> None:
    go_to(page, "Heads")
    start_a_long_search(page)
    press(page, "Stop the search")
    told(page, "Stopped.")
    page.reload()
    go_to(page, "Heads")
    start_a_long_search(page)
    page.reload()
    go_to(page, "Heads")
    page.get_by_role("button", name=f"Head {HEAD}:2").wait_for()
    assert page.locator(".heads .gains, .heads .loses").count() == 0
    slide(page, "Steps", 1)
    press(page, "Draw without and with")
    told(page, "heads softened.")


def test_personalize(page: Any, photo: Path, tmp_path: Path) -> None:
    go_to(page, "Personalize")
    page.get_by_role("combobox", name="Method").locator("visible=true").click()
    page.get_by_role("option", name=re.compile("Perfusion")).click()
    steps = page.get_by_label("number input for Steps").locator("visible=true")
    page.wait_for_function("e => e.value == '400'", arg=steps.element_handle())
    slide(page, "Steps", 2)
    slide(page, "Photos at each step", 1)
    press(page, "Train")
    refused(page, "bring 1 to 50 pictures, found 0")
    press(page, "Take five example photos: a shaded heart, new to the model")
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


def start_a_long_training(page: Any) -> None:
    """Textual inversion of the example photos in 2,000 steps, begun."""
    go_to(page, "Personalize")
    press(page, "Take five example photos: a shaded heart, new to the model")
    page.get_by_role("button", name=re.compile("Thumbnail 5 of 5")).wait_for()
    slide(page, "Steps", 2000)
    slide(page, "Photos at each step", 1)
    press(page, "Train")
    told(page, re.compile(r"training: step [1-9]\d* of 2000"))


def train_in_two_steps(page: Any) -> None:
    slide(page, "Steps", 2)
    press(page, "Train")
    told(page, "Learned. Write <my-thing> in the prompt below.")


def test_personalize_stops_and_goes_on(page: Any) -> None:
    start_a_long_training(page)
    press(page, "Stop")
    told(page, "Stopped before there was anything to keep.")
    press(page, "Draw with the word")
    refused(page, "nothing is learned yet: train first")
    train_in_two_steps(page)


def test_personalize_ends_with_the_tab(page: Any) -> None:
    start_a_long_training(page)
    page.reload()
    go_to(page, "Personalize")
    press(page, "Take five example photos: a shaded heart, new to the model")
    page.get_by_role("button", name=re.compile("Thumbnail 5 of 5")).wait_for()
    train_in_two_steps(page)


def test_evaluate(page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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

    def slowly(*batch: Any) -> Any:
        time.sleep(2)
        return embed(*batch)

    with monkeypatch.context() as patch:
        patch.setattr(workplace, "embed", slowly)
        press(page, "Evaluate")
        told(page, "generated, emblem-classifier: 0 of 6 pictures")
        press(page, "Stop")
        told(page, "Stopped.")
    press(page, "Evaluate")
    told(page, re.compile("7 scores, [1-7] of them with a 95 % interval"))
    told(page, "Frechet distance")


def test_evaluate_what_was_drawn(page: Any) -> None:
    slide(page, "Steps", 2)
    slide(page, "Pictures", 6)
    press(page, "Generate")
    told(page, "6 pictures in")
    go_to(page, "Evaluate")
    press(page, "Take those drawn last in Generate or Compare")
    page.get_by_role("button", name=re.compile("Thumbnail 6 of 6")).last.wait_for()
    page.get_by_label("Truth of the Emblem world").check()
    press(page, "Evaluate")
    told(page, "15 scores, ")
    told(page, "share of pictures that show all that their prompt states")


def test_a_narrow_window_needs_no_scrolling_sideways(page: Any) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.reload()
    page.locator(".rules .rule").first.wait_for()
    page.wait_for_function("document.documentElement.scrollWidth <= 400")
