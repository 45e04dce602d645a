"""What a visitor does on the page, and what they see there."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_TIMES, _SETTLED = 10, 300
"""How often a slider is set at most, and milliseconds after which it must have kept its value."""


def go_to(page: Any, tab: str) -> None:
    """Open another tab than the first; there is nothing left of the first then."""
    page.get_by_role("tab", name=tab).click()
    page.get_by_role("button", name="Generate", exact=True).wait_for(state="hidden")


def come_back(page: Any, tab: str) -> None:
    """Leave, and open another tab than the first on a new page."""
    page.reload()
    go_to(page, tab)


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
    """Set a slider, and again where a part of the page that was just opened sets it back."""
    field = page.get_by_label(f"number input for {label}", exact=True).locator("visible=true").first
    for _ in range(_TIMES):
        field.fill(str(value))
        field.press("Tab")
        page.wait_for_timeout(_SETTLED)
        if field.input_value() == str(value):
            return
    raise AssertionError(f"{label} does not keep {value}")


def bring(page: Any, files: Sequence[Path]) -> None:
    """Upload to the first place that takes files."""
    panel = page.get_by_role("tabpanel").locator("visible=true")
    panel.locator("input[type=file]").first.set_input_files(files)


def shows(page: Any, count: int) -> None:
    """A gallery comes to hold so many pictures."""
    page.get_by_role("button", name=f"Thumbnail {count} of {count}", exact=True).locator(
        "visible=true"
    ).first.wait_for()


def told(page: Any, text: str | re.Pattern[str]) -> None:
    """A text appears."""
    page.get_by_text(text).locator("visible=true").first.wait_for()


def holds(page: Any, label: str, value: object) -> None:
    """A field comes to hold a value."""
    field = page.get_by_label(label, exact=True).locator("visible=true").element_handle()
    page.wait_for_function("([e, value]) => e.value === value", arg=[field, str(value)])


def refused(page: Any, text: str) -> None:
    """A message appears; close it, unless it goes by itself in the meantime."""
    toast = page.get_by_test_id("toast-body").filter(has_text=text)
    toast.first.wait_for()
    page.evaluate("document.querySelectorAll('[data-testid=toast-close]').forEach(e => e.click())")
    toast.first.wait_for(state="hidden")


def download(page: Any, text: str, path: Path) -> str:
    """Save what a button has; returns the name that it gives to it."""
    with page.expect_download() as waiting:
        page.get_by_text(text).locator("visible=true").click()
    waiting.value.save_as(path)
    return str(waiting.value.suggested_filename)


def until(page: Any, holds: Callable[[], bool]) -> None:
    """Wait for what is not on the page."""
    for _ in range(900):
        if holds():
            return
        page.wait_for_timeout(100)
    raise AssertionError("it did not come to that in 90 seconds")
