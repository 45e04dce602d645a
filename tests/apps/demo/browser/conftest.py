"""A browser, and visits to the demo in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from functools import wraps
from typing import Any

import pytest
from diffusers import UNet2DConditionModel

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Chromium."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A fresh visit; at its end nothing came from elsewhere, and no script failed."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    elsewhere: list[str] = []
    broken: list[str] = []
    page.on("request", lambda request: elsewhere.append(request.url))
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.goto(address)
    page.get_by_role("button", name="Generate", exact=True).wait_for()
    yield page
    context.close()
    ours = (address, "data:", "blob:")
    assert [url for url in elsewhere if not url.startswith(ours)] == []
    assert broken == []


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is not done before it is stopped."""
    forward = UNet2DConditionModel.forward

    @wraps(forward)
    def slowly(*given: Any, **more: Any) -> Any:
        time.sleep(0.1)
        return forward(*given, **more)

    monkeypatch.setattr(UNet2DConditionModel, "forward", slowly)
