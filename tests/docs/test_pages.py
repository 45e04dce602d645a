"""Every method has a page that says what there is to say, and pages agree with the code."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers.guiders
import pytest
from PIL import Image

import guidance
from apps.gallery import PICTURES
from guidance import METHODS, Method
from personalize import Perfusion, TextualInversion, ZOODiP
from tests.docs.pages import (
    DOCS,
    METHOD_PAGES,
    PAGES,
    ROOT,
    blocks,
    name_of,
    read,
    sections,
    tables,
)

SECTIONS = ["When to use it", "Cost", "Settings", "Measured", "Pitfalls", "Citation"]
TRAINED = {TextualInversion: "2208.01618", Perfusion: "2305.01644", ZOODiP: "2503.14868"}
CLASSES = {method.rule: method.arxiv for method in METHODS} | TRAINED
ALL = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def page_of(cls: type) -> Path:
    """The page of a method is called like the file of its code."""
    return METHOD_PAGES / f"{cls.__module__.rsplit('.')[-1].replace('_', '-')}.md"


def title(page: Path) -> str:
    return read(page).partition("\n")[0]


@ALL
def test_a_method_has_a_page_with_all_sections(cls: type) -> None:
    page = page_of(cls)
    assert re.fullmatch(r"# [^`]+: (`\w+`, )*`\w+`", title(page))
    assert f"`{cls.__name__}`" in title(page)
    found = [name for name in sections(read(page)) if name in SECTIONS]
    assert found == SECTIONS
    assert all(text.strip() for text in sections(read(page)).values())
    assert blocks(read(page), "python")


@ALL
def test_settings_are_those_of_the_class(cls: Any) -> None:
    """The table with the names of the class's settings has their defaults, too."""
    settings = {item.name: item.default for item in fields(cls) if item.init}
    found = [
        {row[0].strip("`"): row[1] for row in table[1:]}
        for table in tables(sections(read(page_of(cls)))["Settings"])
        if table[0] == ["setting", "default", "range", "what it does", "source"]
    ]
    expected = {
        name: "required" if default is MISSING else f"`{_shown(default)}`"
        for name, default in settings.items()
    }
    assert expected in found


def _shown(default: object) -> str:
    return f'"{default}"' if isinstance(default, str) else repr(default)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_cost_is_that_of_the_registry(method: Method) -> None:
    cost = sections(read(page_of(method.rule)))["Cost"].strip()
    assert cost.startswith(f"**{method.evaluations}**")


@ALL
def test_the_citation_is_that_of_the_file(cls: type) -> None:
    """Its arXiv id is the registry's, and its title and first author are in the file's header."""
    header = " ".join((sys.modules[cls.__module__].__doc__ or "").split())
    entries = [block.code for block in blocks(read(page_of(cls)), "bibtex")]
    (entry,) = [
        part
        for part in re.split(r"\n(?=@)", "\n".join(entries))
        if f"eprint = {{{CLASSES[cls]}}}" in part
    ]
    values = dict(re.findall(r"(\w+) = \{(.*)\}", entry))
    assert values["title"] in header
    assert values["author"].split(" and ")[0] in header
    assert values["year"] in header


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_has_a_row_in_the_readme(method: Method) -> None:
    rows = [row for table in tables(read(ROOT / "README.md")) for row in table]
    link = f"[`{method.name}`](docs/methods/{page_of(method.rule).name})"
    (row,) = [row for row in rows if len(row) == 3 and row[1] == link]
    assert f"[{method.arxiv}](https://arxiv.org/abs/{method.arxiv})" in row[0]


def test_every_method_is_in_the_index() -> None:
    (table,) = tables(sections(read(DOCS / "index.md"))["Methods"])
    found = {row[0]: row[2] for row in table[1:]}
    for method in METHODS:
        link = f"[`{method.name}`](methods/{page_of(method.rule).name})"
        assert found.pop(link) == method.evaluations
    for cls in TRAINED:
        assert found.pop(f"[`{cls.__name__}`](methods/{page_of(cls).name})") == "training"
    assert not found
    assert {page_of(cls) for cls in CLASSES} == set(METHOD_PAGES.glob("*.md"))


def test_every_picture_is_drawn_by_the_gallery_and_shown_on_its_page() -> None:
    shown = {
        name: page
        for page in METHOD_PAGES.glob("*.md")
        for name in re.findall(r"\(\.\./pictures/(\w+)\.png\)", read(page))
    }
    assert set(shown) == {picture.name for picture in PICTURES}
    for name, page in shown.items():
        assert page == page_of(getattr(guidance, name))
        with Image.open(DOCS / "pictures" / f"{name}.png") as picture:
            assert min(picture.size) > 64


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", read(page)):
        path, _, anchor = target.partition("#")
        place = page.parent / path if path else page
        assert place.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", read(place), re.MULTILINE)
            assert anchor in {_slug(heading) for heading in headings}, target


def _slug(heading: str) -> str:
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-")


def calls(table: list[list[str]], column: int) -> list[ast.Call]:
    """Calls with the name of a class in a column."""
    codes = [
        code for row in table for code in re.findall(r"`(?:\+ )?([A-Z]\w*\(.*?)`", row[column])
    ]
    trees = [ast.parse(code, mode="eval") for code in codes if "..." not in code]
    return [
        node
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id[0].isupper()
    ]


def check(call: ast.Call, home: ModuleType) -> None:
    """Bind a call, whose values do not matter, to the parameters of what it names."""
    assert isinstance(call.func, ast.Name)
    named = {str(keyword.arg): None for keyword in call.keywords}
    inspect.signature(getattr(home, call.func.id)).bind_partial(*call.args, **named)


def test_calls_of_the_migration_have_parameters_that_exist() -> None:
    """Those of guiders in the table of diffusers, and those of rules in all of them."""
    found = tables(read(DOCS / "migration.md"))
    guiders, rules = calls(found[0], 0), [call for table in found for call in calls(table, 1)]
    assert len(guiders) >= 6
    assert len(rules) >= 20
    for call in guiders:
        check(call, diffusers.guiders)
    for call in rules:
        check(call, guidance)
