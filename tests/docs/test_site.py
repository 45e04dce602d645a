"""The site builds without a warning, and needs nothing from elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not built.returncode, built.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        html = (site / page.relative_to(DOCS)).with_suffix(".html").read_text(encoding="utf-8")
        assert "```" not in html


def test_links_and_pictures_are_in_the_site(site: Path) -> None:
    """Those of the results, too, which lie beside the pages."""
    found = 0
    for page in site.rglob("*.html"):
        for target in re.findall(r'(?:src|href)="([^"#?:]+)[#?]?[^":]*"', _text(page)):
            if page.name != "404.html":
                assert (page.parent / target).exists(), f"{page.name}: {target}"
                found += "results/" in target
    assert found > 8


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loads = re.compile(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="?(https?:[^" >]*)')
    for page in site.rglob("*.html"):
        assert not loads.findall(_text(page)), page.name
    styles = "".join(_text(path) for path in site.rglob("*.css"))
    assert not re.search(r"url\(['\"]?https?:", styles)


def test_the_search_knows_the_pages(site: Path) -> None:
    script = _text(site / "search" / "search_index.js")
    index = json.loads(script.removeprefix("var __index = "))
    titles = {entry["title"] for entry in index["docs"]}
    assert {"Coming from elsewhere", "When to use it", "Recipes"} <= titles


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
