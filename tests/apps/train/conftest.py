"""A few captioned pictures to learn from."""

from __future__ import annotations

from pathlib import Path

import pytest

from apps.emblem.data import export


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures of the Emblem world with their captions and scenes."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    export(folder, 24, seed=5)
    return folder
