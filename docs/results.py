"""Bring the measured results, which lie beside the pages in the repository, into the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).parents[1] / "assets" / "results"
KINDS = (".csv", ".json", ".png")


def on_files(files: Files, config: Any) -> Files:
    """Add all results under ``results/``."""
    for path in sorted(RESULTS.rglob("*")):
        if path.suffix in KINDS:
            place = Path("results") / path.relative_to(RESULTS)
            files.append(File.generated(config, place.as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links as they are in the repository become links within the site."""
    return re.sub(r"\.\./((?:\.\./)*)assets/results/", r"\1results/", markdown)
