"""Commands of the documentation are understood by the programs; none of them is run."""

from __future__ import annotations

import re
import shlex
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand

from guidance import parse_rule
from guidance.linear_ag import Fit
from tests.docs.pages import DOCS, PAGES, ROOT, blocks, read

PROGRAMS = {
    "apps.cli": "apps.cli",
    "apps.emblem": "apps.emblem.__main__",
    "apps.evaluate": "apps.evaluate.cli",
    "apps.gallery": "apps.gallery",
}
"""Where the command of ``python -m`` is."""

_START = re.compile(
    r"(?:\S*/)?(?:(diffusteer)|(?:python|accelerate launch.*?) -m (apps\.\w+))(?: |$)"
)


_BASE: type = TyperCommand.__mro__[1]  # of commands and groups


def lines() -> list[str]:
    """Command lines of all pages, and of scripts, whose variables become 1."""
    scripts = [block.code for page in PAGES for block in blocks(read(page), "sh")]
    for script in sorted(DOCS.glob("*.sh")):
        code = re.sub(r"\$(?:\w+|\{\w+\})", "1", read(script).replace('"${@:5}"', ""))
        known = [line for line in _joined(code) if _START.match(line)]
        scripts += [line.partition(" | ")[0] for line in known]
    return [line for script in scripts for line in _joined(script)]


def _joined(script: str) -> list[str]:
    whole = re.sub(r"\\\n\s*", "", script)
    return [line.strip() for line in whole.splitlines() if line.strip()]


def commands() -> list[tuple[str, ...]]:
    """Command lines of our programs, each after the module of its program."""
    found = set()
    for line in lines():
        if match := _START.match(line):
            words = shlex.split(line[match.end() :], comments=True)
            found.add((PROGRAMS[match[2] or "apps.cli"], *words))
    return sorted(words for words in found if "..." not in words)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_are_understood(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They are parsed to the end, as typer does, and stop before a function is called."""
    monkeypatch.setattr(_BASE, "invoke", lambda command, context: None)
    monkeypatch.chdir(tmp_path)
    module, *arguments = words
    command = typer.main.get_command(import_module(module).app)
    with pytest.raises(SystemExit) as left:
        command.main(arguments, prog_name=module)
    assert not left.value.code


def test_wrong_options_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        test_commands_are_understood(
            ("apps.cli", "sample", "--guide", "CFG"), monkeypatch, tmp_path
        )


def test_rules_of_commands_can_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Fit("", "", 4.0, 1, (1,), (0.0,), 1, ((1.0,),)).save("linear-ag.json")
    rules = [words[words.index("--guidance") + 1] for words in commands() if "--guidance" in words]
    assert len(rules) > 8
    for rule in set(rules) - {"none", "1"}:
        parse_rule(rule)


def test_other_commands_find_what_they_name() -> None:
    """Targets of the Makefile, scripts, and extras of the package."""
    targets = re.findall(r"^(\w+):", read(ROOT / "Makefile"), re.MULTILINE)
    extras = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    for line in lines():
        if not _START.match(line):
            program, *arguments = shlex.split(line, comments=True)
            known = {
                "make": arguments[0] in targets,
                "bash": (ROOT / arguments[0]).exists(),
                "pip": arguments[-1].partition("[")[2].rstrip("]") in extras,
            }
            assert known[program], line
