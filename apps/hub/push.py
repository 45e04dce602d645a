"""One upload, or what it would be."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id

from apps.hub.card import shared


@dataclass(frozen=True)
class Pushed:
    """What ``push`` sent.

    Attributes:
        files: their names in the repository, README.md among them.
        card: content of README.md.
        url: of the repository; None where nothing was sent.
    """

    files: tuple[str, ...]
    card: str
    url: str | None


def push(path: str | Path, repo_id: str, *, private: bool = True, dry_run: bool = False) -> Pushed:
    """Upload a personalization file, heads or an evaluator to the hub, with a model card.

    The repository is made if needed; files of the same name in it are replaced.

    Args:
        path: of the file, or of the folder that was written.
        repo_id: such as ``owner/name``.
        private: make a new repository that only its owner sees.
        dry_run: send nothing.

    Raises:
        ValueError: the path holds nothing to share, or no repository can be called so.
        OSError: the hub cannot be reached, or refuses.
    """
    validate_repo_id(repo_id)
    found = shared(path, repo_id)
    names = (*(file.name for file in found.files), "README.md")
    if dry_run:
        return Pushed(names, found.card, None)
    api = HfApi()
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for file in found.files:
            shutil.copy(file, folder)
        Path(folder, "README.md").write_text(found.card, encoding="utf-8")
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=f"Add {names[0]}")
    return Pushed(names, found.card, str(url))
