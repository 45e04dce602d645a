"""The documentation names what there is."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.core import TyperGroup

from apps.cli import app
from apps.gallery import PICTURES
from guidance import METHODS, Rule, guide
from tests import tiny

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/guidance.md",
    "docs/evaluation.md",
    "docs/evaluators.md",
    "docs/perfusion.md",
    "docs/textual-inversion.md",
    "docs/zoodip.md",
)
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDANCE = (ROOT / "docs" / "guidance.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_has_an_entry_and_a_row(method: object) -> None:
    name, arxiv = method.name, method.arxiv  # type: ignore[attr-defined]
    assert re.search(rf"^## .*`{name}`$", GUIDANCE, re.MULTILINE)
    assert f"[{arxiv}](https://arxiv.org/abs/{arxiv})" in GUIDANCE
    assert f"| `{name}` |" in README


def test_every_picture_is_drawn_by_the_gallery_and_shown() -> None:
    shown = set(re.findall(r"\(pictures/(\w+)\.png\)", GUIDANCE))
    assert shown == {picture.name for picture in PICTURES}
    for name in shown:
        with Image.open(ROOT / "docs" / "pictures" / f"{name}.png") as picture:
            assert min(picture.size) > 64


def test_links_lead_somewhere() -> None:
    for page in (ROOT / name for name in PAGES):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_code_blocks_are_python(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        compile(block, page, "exec")


def test_the_rule_of_the_documentation_runs(sd: Any) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", GUIDANCE, re.DOTALL)
    names: dict[str, Any] = {"__name__": __name__}
    exec(block, names)
    try:
        with guide(sd, names["Towards"]("a hat")) as run:
            towards = tiny.sample(sd)
    finally:
        del Rule.known["Towards"]
    assert run.report.nfe == 12
    assert (towards - tiny.sample(sd, 4.0)).abs().max() > 1e-3


def test_the_table_of_claims_is_that_of_the_results() -> None:
    """Evaluations, accuracy, FID and diversity of the README's cells, as they are in the file."""
    cells = json.loads((ROOT / "assets/results/claims-guidance.json").read_text())["cells"]
    found = set()
    for cell in cells:
        if cell["claim"] in ("settings", "savings"):
            measures = cell["measures"]
            shown = (
                f"{round(cell['evaluations'], 1):g}",
                f"{100 * measures['accuracy']['value']:.1f} %",
                f"{measures['fid']['value']:.1f}",
                f"{measures['diversity']['value']:.2f}",
            )
            found.add(" | ".join(shown))
    text = README.split("## Measured on Emblem")[1]
    rows = re.findall(r"^\| `.*?\| (\S+ \| \S+ % \| \S+ \| \S+) \|$", text, re.MULTILINE)
    assert len(rows) == 14
    assert set(rows) <= found


def commands() -> list[tuple[str, ...]]:
    """Command lines of the documentation, without the programs that start them."""
    pages = [ROOT / name for name in PAGES] + [ROOT / "docs" / "evaluation-tour.sh"]
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    start = re.compile(
        r"\s*(?:\.venv/bin/)?(?:diffusteer|accelerate launch .*?-m apps\.evaluate) (.*)"
    )
    found = []
    for line in lines:
        if match := start.fullmatch(line):
            words = shlex.split(match[1].rstrip("\\"), comments=True)
            found.append(tuple(["evaluate"] * ("apps.evaluate" in line) + words))
    return sorted(set(found))


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_have_the_options_that_the_documentation_gives_them(
    words: tuple[str, ...],
) -> None:
    command = typer.main.get_command(app)
    for word in words:
        if isinstance(command, TyperGroup) and word in command.commands:
            command = command.commands[word]
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_evaluations_of_the_documentation_are_those_of_the_results() -> None:
    """Each value with its interval, as it is in the files."""
    found = set()
    for path in (ROOT / "assets/results/evaluation").glob("*.json"):
        for score in json.loads(path.read_text())["scores"]:
            numbers = [score["value"], *(score["interval"] or ())]
            for digits in (2, 3):
                value, *bounds = (f"{number:.{digits}f}" for number in numbers)
                found.add(f"{value} ({' to '.join(bounds)})" if bounds else value)
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    tables = page.split("## A tour")[1].split("## Extractors")[0]
    cells = re.findall(r"(?<=\| )-?\d+\.\d+(?: \([^)]*\))?(?= \|)", tables)
    assert len(cells) > 20
    assert set(cells) <= found


def test_the_scores_of_the_shipped_evaluators_are_those_they_were_trained_to() -> None:
    page = (ROOT / "docs" / "evaluators.md").read_text(encoding="utf-8")
    names = ("alignment", "reward", "classifier", "discriminator-unet", "discriminator-dit")
    for name in names:
        config = ROOT / "assets" / "emblem-evaluators" / name / "config.json"
        scores = json.loads(config.read_text())["training"]["scores"]
        by_noise = {row["sigma"][0]: f"{row['score']:.2f}" for row in scores}
        cells = [by_noise.get(low, "") for low in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)]
        (row,) = re.findall(
            rf"^\| {name}(?: \([^|]*\)|, scales[^|]*)? \|(.*)\|$", page, re.MULTILINE
        )
        assert [cell.strip() for cell in row.split("|")] == cells
