"""The pages of the documentation, read as their readers and the site see them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
METHOD_PAGES = DOCS / "methods"
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_PIPE = re.compile(r"<!-- pipe: (\S+) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        code: its text.
        line: number of its first line in the page.
        pipe: what ``pipe`` becomes before it, by ``<!-- pipe: NAME -->``; else it stays.
    """

    code: str
    line: int
    pipe: str | None


def name_of(page: Path) -> str:
    """A page by its path in the repository."""
    return page.relative_to(ROOT).as_posix()


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[Block]:
    """The blocks of a language in a page."""
    found, end = [], 0
    for match in _FENCE.finditer(text):
        if match[2] == language:
            pipe = _PIPE.search(text, end, match.start())
            code = re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE)
            line = text.count("\n", 0, match.start()) + 2
            found.append(Block(code, line, pipe and pipe[1]))
            end = match.end()
    return found


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return _FENCE.sub("", text)


def sections(text: str) -> dict[str, str]:
    """The text under each heading of the second level."""
    parts = re.split(
        r"^## (.*)$", _FENCE.sub(lambda match: match[0].replace("#", " "), text), flags=re.M
    )
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def tables(text: str) -> list[list[list[str]]]:
    """Tables as rows of cells, the header first."""
    found: list[list[list[str]]] = []
    for block in re.findall(r"(?:^\|.*\|$\n?)+", prose(text), re.MULTILINE):
        rows = [line.strip("|") for line in block.strip().splitlines()]
        cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in rows]
        found.append([cells[0], *cells[2:]])
    return found
