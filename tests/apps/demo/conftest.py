"""The demo served on Emblem, its address, and a browser."""

from __future__ import annotations

import gc
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from apps.demo.app import served
from apps.demo.model import Model, Models
from apps.demo.session import Session
from apps.demo.settings import DemoSettings

SETTINGS = DemoSettings(models=("emblem-unet",), device="cpu", dtype="float32")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def untidy() -> Iterator[None]:
    """Gradio leaves event loops open: they go here, and not in the middle of another test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


@pytest.fixture(scope="session")
def models() -> Models:
    """The shipped model of the tests."""
    return Models(SETTINGS)


@pytest.fixture(scope="session")
def unet(models: Models) -> Model:
    """That model."""
    return models["emblem-unet"]


@pytest.fixture
def session() -> Iterator[Session]:
    """A visitor."""
    session = Session()
    yield session
    session.end()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Address of the demo."""
    with untidy(), served(SETTINGS) as address:
        yield address


@pytest.fixture(scope="module")
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
    page.set_default_timeout(90_000)
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
def photo(tmp_path: Path) -> Path:
    """A file that calls itself a picture and is none."""
    path = tmp_path / "photo.png"
    path.write_bytes(b"no picture")
    return path
