"""Finding the models that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from apps import shipped as module
from apps.shipped import shipped, shipped_names


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Where an installed wheel and where a checkout keep their models, both empty."""
    places = (tmp_path / "apps" / "_shipped", tmp_path / "assets")
    monkeypatch.setattr(module, "_FOLDERS", places)
    return places


def _add(folder: Path, name: str, file: str = "model_index.json") -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / file).write_text("{}")
    return folder / name


@pytest.mark.parametrize("place", [0, 1])
def test_is_found_in_a_wheel_and_in_a_checkout(folders: tuple[Path, Path], place: int) -> None:
    expected = _add(folders[place], "small-unet")
    assert shipped("small-unet") == expected


def test_names_are_those_of_models_only(folders: tuple[Path, Path]) -> None:
    _add(folders[1], "small-unet")
    _add(folders[1], "classifier", "config.json")
    _add(folders[1], "results", "measured.json")
    _add(folders[1], "small-unet/unet", "config.json")
    _add(folders[1], "small-evaluators/reward", "config.json")
    assert shipped_names() == ("classifier", "small-evaluators/reward", "small-unet")
    assert shipped("small-evaluators/reward") == folders[1] / "small-evaluators" / "reward"


def test_the_wheel_comes_before_a_folder_of_someone_else(folders: tuple[Path, Path]) -> None:
    expected = _add(folders[0], "small-unet")
    _add(folders[1], "other")
    assert shipped("small-unet") == expected
    assert shipped_names() == ("small-unet",)


def test_a_wrong_name_gets_a_suggestion(folders: tuple[Path, Path]) -> None:
    _add(folders[1], "small-unet")
    with pytest.raises(ValueError, match=r"'smal-unet'; did you mean 'small-unet'\?"):
        shipped("smal-unet")


def test_an_empty_installation_says_so(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="none in this installation"):
        shipped("../secrets")
