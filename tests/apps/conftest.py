"""Tiny pipelines saved as folders, and a hub that is out of reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test of the programs asks the network for a model."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the pipelines ``sd``, ``sd3`` and ``dit``."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("sd", "sd3", "dit"):
        tiny.FAMILIES[name]().save_pretrained(folder / name)
    return folder
