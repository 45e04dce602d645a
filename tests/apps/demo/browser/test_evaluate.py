"""Evaluate in Chromium."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apps.evaluate.pictures import workplace
from apps.evaluate.pictures.features import embed
from tests.apps.demo.browser.visit import (
    bring,
    come_back,
    download,
    go_to,
    press,
    refused,
    shows,
    slide,
    told,
)
from tests.apps.demo.conftest import GRADIO

pytestmark = GRADIO


@pytest.fixture
def files(tmp_path: Path) -> Sequence[Path]:
    """Six pictures."""
    found = []
    for colour in ("red", "green", "blue", "white", "pink", "orange"):
        found.append(tmp_path / f"{colour}.png")
        Image.new("RGB", (64, 64), colour).save(found[-1])
    return found


def bring_both(page: Any, files: Sequence[Path]) -> None:
    press(page, "Take 64 fresh pictures of the Emblem world")
    page.get_by_role("button", name="Thumbnail 64 of 64").wait_for(state="attached")
    bring(page, files)
    shows(page, 6)


def evaluate_for_long(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(*batch: Any) -> Any:
        time.sleep(2)
        return embed(*batch)

    monkeypatch.setattr(workplace, "embed", slowly)
    press(page, "Evaluate")
    told(page, "generated, emblem-classifier: 0 of 6 pictures")


def test_main_path(page: Any, files: Sequence[Path], tmp_path: Path) -> None:
    go_to(page, "Evaluate")
    bring_both(page, files)
    press(page, "Evaluate")
    told(page, re.compile("7 scores, [1-7] of them with a 95 % interval"))
    told(page, "Frechet distance")
    assert download(page, "Download the result", tmp_path / "result") == "distribution.json"


def test_what_was_drawn(page: Any) -> None:
    slide(page, "Steps", 2)
    slide(page, "Pictures", 6)
    press(page, "Generate")
    told(page, "6 pictures in")
    go_to(page, "Evaluate")
    press(page, "Take those drawn last in Generate or Compare")
    shows(page, 6)
    page.get_by_label("Truth of the Emblem world").check()
    press(page, "Evaluate")
    told(page, "15 scores, ")
    told(page, "share of pictures that show all that their prompt states")


def test_wrong_input(page: Any, photo: Path, files: Sequence[Path]) -> None:
    go_to(page, "Evaluate")
    press(page, "Take those drawn last in Generate or Compare")
    told(page, "Nothing is drawn yet: draw in Generate or Compare first.")
    press(page, "Evaluate")
    refused(page, "bring 6 to 500 pictures, found 0")
    bring(page, [*files[1:], photo])
    shows(page, 6)
    press(page, "Evaluate")
    refused(page, "photo.png is no picture")


def test_stop(page: Any, files: Sequence[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    go_to(page, "Evaluate")
    bring_both(page, files)
    with monkeypatch.context() as patch:
        evaluate_for_long(page, patch)
        press(page, "Stop")
        told(page, "Stopped.")
    press(page, "Evaluate")
    told(page, "7 scores, ")


def test_reload(page: Any, files: Sequence[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    go_to(page, "Evaluate")
    bring_both(page, files)
    with monkeypatch.context() as patch:
        evaluate_for_long(page, patch)
        come_back(page, "Evaluate")
    press(page, "Evaluate")
    refused(page, "bring 6 to 500 pictures, found 0")
