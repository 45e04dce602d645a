"""The Python of the documentation runs, page by page, on pipelines of its families."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from guidance import Rule
from guidance.core import family
from tests.docs.pages import DOCS, PAGES, blocks, name_of, read
from tests.docs.stage import Stage, furnish

PY = {DOCS / "guidance.md": "runs with the real networks in tests/guidance/test_selection.py"}
"""Pages with blocks of ``py``, which are not run here, and why."""


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("furnished")
    furnish(folder)
    return folder


def pages() -> list[Path]:
    return [page for page in PAGES if blocks(read(page), "python")]


@pytest.mark.parametrize("page", pages(), ids=name_of)
@pytest.mark.filterwarnings("ignore:AdaptiveGuidance. 1 of 1 images converged at the very first")
def test_python_runs(
    page: Path, furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = shutil.copytree(furnished, tmp_path / "place", symlinks=True)
    stage = Stage(place, monkeypatch)
    monkeypatch.setattr(family, "_FAMILIES", dict(family._FAMILIES))
    monkeypatch.setattr(Rule, "known", dict(Rule.known))
    names = {"__name__": __name__, "pipe": stage.pipeline("sd")}
    for block in blocks(read(page), "python"):
        if block.pipe:
            names["pipe"] = stage.pipeline(block.pipe)
        blank = "\n" * (block.line - 1)  # so that tracebacks have the line of the page
        exec(compile(blank + block.code, str(page), "exec"), names)


def test_no_python_hides_from_the_test_above() -> None:
    hidden = {page for page in PAGES if blocks(read(page), "py")}
    assert hidden == set(PY)
