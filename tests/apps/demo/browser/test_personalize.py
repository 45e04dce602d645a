"""Personalize in Chromium."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.apps.demo.browser.visit import (
    bring,
    come_back,
    download,
    go_to,
    holds,
    press,
    put,
    refused,
    shows,
    slide,
    told,
)
from tests.apps.demo.conftest import GRADIO

pytestmark = GRADIO

LEARNED = "Learned. Write <my-thing> in the prompt below."


def take_examples(page: Any) -> None:
    press(page, "Take five example photos: a shaded heart, new to the model")
    shows(page, 5)


def train_in_two_steps(page: Any) -> None:
    slide(page, "Steps", 2)
    slide(page, "Photos at each step", 1)
    press(page, "Train")
    told(page, LEARNED)


def train_for_long(page: Any) -> None:
    slide(page, "Steps", 2000)
    slide(page, "Photos at each step", 1)
    press(page, "Train")
    told(page, re.compile(r"training: step [1-9]\d* of 2000"))


def test_main_path(page: Any, tmp_path: Path) -> None:
    go_to(page, "Personalize")
    page.get_by_role("combobox", name="Method").locator("visible=true").click()
    page.get_by_role("option", name=re.compile("Perfusion")).click()
    holds(page, "number input for Steps", 400)
    take_examples(page)
    train_in_two_steps(page)
    name = download(page, "Download the learned file", tmp_path / "learned")
    assert name == "perfusion.safetensors"
    press(page, "Draw with the word")
    told(page, "4 pictures in")


def test_wrong_input(page: Any, photo: Path) -> None:
    go_to(page, "Personalize")
    press(page, "Train")
    refused(page, "bring 1 to 50 pictures, found 0")
    press(page, "Draw with the word")
    refused(page, "nothing is learned yet: train first")
    put(page, "Word to learn", "my thing")
    press(page, "Train")
    refused(page, "word: write up to 30 letters, digits or hyphens in angle brackets")
    put(page, "Word to learn", "<my-thing>")
    bring(page, [photo])
    shows(page, 1)
    press(page, "Train")
    refused(page, "photo.png is no picture")


@pytest.mark.usefixtures("slow")
def test_stop_training(page: Any) -> None:
    go_to(page, "Personalize")
    take_examples(page)
    train_for_long(page)
    press(page, "Stop")
    told(page, "Stopped before there was anything to keep.")
    press(page, "Draw with the word")
    refused(page, "nothing is learned yet: train first")


@pytest.mark.usefixtures("slow")
def test_stop_drawing(page: Any) -> None:
    go_to(page, "Personalize")
    take_examples(page)
    train_in_two_steps(page)
    press(page, "Draw with the word")
    told(page, re.compile(r"Drawing: \d+%"))
    press(page, "Stop drawing")
    told(page, "Stopped.")


@pytest.mark.usefixtures("slow")
def test_reload(page: Any) -> None:
    go_to(page, "Personalize")
    take_examples(page)
    train_for_long(page)
    come_back(page, "Personalize")
    take_examples(page)
    train_in_two_steps(page)
