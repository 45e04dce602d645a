"""An untrained emblem-clip on disk."""

from pathlib import Path

import pytest
import torch

from apps.emblem import models


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    tokenizer = models.build_tokenizer()
    models.build_clip(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
