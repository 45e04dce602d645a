"""Heads in Chromium."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.apps.demo.browser.visit import come_back, go_to, press, put, refused, slide, told
from tests.apps.demo.conftest import GRADIO

pytestmark = GRADIO

HEAD = "Head mid_block.attentions.0.transformer_blocks.0.attn1:2"
COLOURED = ".heads .gains, .heads .loses"


def draw_in_one_step(page: Any) -> None:
    slide(page, "Steps", 1)
    press(page, "Draw without and with")
    told(page, re.compile(r"\d heads softened\."))


def draw_for_long(page: Any) -> None:
    slide(page, "Steps", 100)
    press(page, "Draw without and with")
    told(page, re.compile(r"Drawing without: \d+%"))


def search_for_long(page: Any) -> None:
    page.get_by_text("Search for heads (HeadHunter)").click()
    slide(page, "Heads to find", 3)
    slide(page, "Pictures of each trial", 8)
    press(page, "Search")
    told(page, re.compile(r"Round 1 of \d: \d+ of \d+ pictures"))
    page.locator(COLOURED).first.wait_for()


def test_drawing_and_its_wrong_input(page: Any) -> None:
    go_to(page, "Heads")
    slide(page, "Steps", 2)
    press(page, "None")
    press(page, "Draw without and with")
    refused(page, "heads: click at least one head on the map")
    press(page, HEAD)
    press(page, "Draw without and with")
    told(page, "1 heads softened.")
    assert page.locator(".grid:visible tbody tr").count() == 2


def test_search_and_its_wrong_input(page: Any) -> None:
    go_to(page, "Heads")
    page.get_by_text("Search for heads (HeadHunter)").click()
    slide(page, "Pictures of each trial", 1)
    page.get_by_label("number input for Steps").last.fill("4")
    put(page, "Prompt", " ")
    press(page, "Search")
    refused(page, "prompt: write what to draw")
    put(page, "Prompt", "a red star")
    press(page, "Search")
    told(page, re.compile("Best: .* They are chosen on the map now"))
    told(page, "1 softened")
    assert page.locator(COLOURED).count() == 28


@pytest.mark.usefixtures("slow")
def test_stop_drawing(page: Any) -> None:
    go_to(page, "Heads")
    draw_for_long(page)
    press(page, "Stop")
    told(page, "Stopped.")
    draw_in_one_step(page)


@pytest.mark.usefixtures("slow")
def test_stop_searching(page: Any) -> None:
    go_to(page, "Heads")
    search_for_long(page)
    press(page, "Stop the search")
    told(page, "Stopped.")
    press(page, HEAD)
    draw_in_one_step(page)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("work", [draw_for_long, search_for_long])
def test_reload(page: Any, work: Any) -> None:
    go_to(page, "Heads")
    work(page)
    come_back(page, "Heads")
    page.get_by_role("button", name=HEAD).wait_for()
    assert page.locator(COLOURED).count() == 0
    draw_in_one_step(page)
