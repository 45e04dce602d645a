"""Jobs that wait in line in Chromium."""

from __future__ import annotations

from typing import Any

from gradio_client import Client

from tests.apps.demo.browser.visit import press, slide, told
from tests.apps.demo.conftest import GRADIO, untidy

pytestmark = GRADIO


def test_a_visitor_waits_stops_and_comes_back(page: Any, address: str) -> None:
    with untidy():
        other = Client(address, verbose=False)
        values = ["emblem-unet", "a red star", "", [], 100, 8, 0, "the model's own"]
        job = other.submit(*values, api_name="/generate")
        next(iter(job))
        slide(page, "Steps", 2)
        slide(page, "Pictures", 1)
        press(page, "Generate")
        told(page, "queue: 1/1")
        press(page, "Stop")
        told(page, "Stopped.")
        press(page, "Generate")
        told(page, "queue: 1/1")
        assert not job.done()
        job.cancel()
        told(page, "1 pictures in")
        other.close()
