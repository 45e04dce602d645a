"""Pictures to evaluate, and settings that keep what is written below ``tmp_path``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from apps.emblem.data import export
from apps.evaluate.settings import EvaluateSettings


@pytest.fixture
def settings(tmp_path: Path) -> EvaluateSettings:
    """On the CPU, with a cache of its own."""
    return EvaluateSettings(device="cpu", cache=tmp_path / "cache")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are made."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="session")
def emblems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures of the Emblem world with their captions."""
    folder = tmp_path_factory.mktemp("data") / "emblems"
    export(folder, 40, seed=5)
    return folder
