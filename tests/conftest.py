"""Tiny pipelines for every test; see ``tests.tiny``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests import tiny


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors here, but not those that diffusers raises against its own libraries."""
    config.addinivalue_line("filterwarnings", "ignore:__array_.*:DeprecationWarning")


@pytest.fixture
def sd() -> Any:
    """Stable Diffusion 1.x pipeline."""
    return tiny.sd()


@pytest.fixture
def sdxl() -> Any:
    """Stable Diffusion XL pipeline."""
    return tiny.sdxl()


@pytest.fixture
def sd3() -> Any:
    """Stable Diffusion 3 pipeline."""
    return tiny.sd3()


@pytest.fixture
def dit() -> Any:
    """DiT pipeline."""
    return tiny.dit()


@pytest.fixture(params=list(tiny.FAMILIES))
def pipe(request: pytest.FixtureRequest) -> Iterator[Any]:
    """One pipeline of every family in turn."""
    return tiny.FAMILIES[request.param]()
