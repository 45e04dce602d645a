"""``apps.evaluate`` gives functions of the names of its commands, and is light until then."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pkgutil import iter_modules

import pytest

import apps.evaluate


def test_names_are_functions_whatever_was_imported_before() -> None:
    names = ("compare", "distribution", "emblem", "multi", "prompts", "report", "statistics")
    for module in iter_modules(apps.evaluate.__path__):
        if module.name != "__main__":
            import_module(f"apps.evaluate.{module.name}")
    for name in (*names, "subject"):
        assert getattr(apps.evaluate, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fid'"):
        _ = apps.evaluate.fid


def test_the_command_line_does_not_load_torch() -> None:
    code = "import sys, apps.evaluate.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
