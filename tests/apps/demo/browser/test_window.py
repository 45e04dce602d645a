"""Windows of other widths in Chromium."""

from __future__ import annotations

from typing import Any

from tests.apps.demo.browser.visit import go_to, press, shows, slide, told
from tests.apps.demo.conftest import GRADIO

pytestmark = GRADIO

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 400, "height": 800}


def test_a_narrow_window_needs_no_scrolling_sideways(page: Any) -> None:
    def fits() -> None:
        page.set_viewport_size(NARROW)
        page.wait_for_function("innerWidth == 400 && document.documentElement.scrollWidth <= 400")
        page.set_viewport_size(WIDE)

    fits()
    go_to(page, "Compare")
    slide(page, "Steps", 1)
    press(page, "Compare")
    told(page, "4 rows of 4 pictures in")
    fits()
    go_to(page, "Heads")
    fits()
    go_to(page, "Personalize")
    press(page, "Take five example photos: a shaded heart, new to the model")
    shows(page, 5)
    fits()
    go_to(page, "Evaluate")
    press(page, "Take those drawn last in Generate or Compare")
    shows(page, 16)
    fits()
