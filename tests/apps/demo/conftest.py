"""The demo served on Emblem, and its address."""

from __future__ import annotations

import gc
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from apps.demo.app import served
from apps.demo.model import Model, Models
from apps.demo.session import Session
from apps.demo.settings import DemoSettings

SETTINGS = DemoSettings(models=("emblem-unet",), device="cpu", dtype="float32")
GRADIO = pytest.mark.filterwarnings(
    "ignore::pandas.errors.Pandas4Warning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
"""Gradio 6 uses pandas in ways that pandas 4 will drop, and leaves event loops open."""


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


@pytest.fixture(scope="package")
def address() -> Iterator[str]:
    """Address of the demo, one for all tests: what they leave belongs to their visitors.

    On a port that the system gives: two test processes that look for one from 7860 up at the same
    time would find the same.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with untidy(), served(replace(SETTINGS, port=port)) as address:
        yield address


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A file that calls itself a picture and is none."""
    path = tmp_path / "photo.png"
    path.write_bytes(b"no picture")
    return path
