"""Where the models that come with the package are."""

from __future__ import annotations

import difflib
from pathlib import Path

_HERE = Path(__file__).parent
_FOLDERS = (_HERE / "_shipped", _HERE.parent / "assets")  # of an installed wheel, of a checkout


def shipped_names() -> tuple[str, ...]:
    """Names that ``shipped`` knows, sorted."""
    return tuple(sorted(_models()))


def shipped(name: str) -> Path:
    """Folder of a model that comes with the package: a pipeline, a network, or an evaluator.

    Raises:
        ValueError: no shipped model has this name.
    """
    models = _models()
    if name not in models:
        close = difflib.get_close_matches(name, models, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        known = ", ".join(sorted(models)) or "none in this installation"
        raise ValueError(f"no shipped model is called {name!r}{hint} (shipped models: {known})")
    return models[name]


def _models() -> dict[str, Path]:
    for folder in _FOLDERS:
        kinds = ("*/model_index.json", "*/config.json", "*-evaluators/*/config.json")
        roots = [root.parent for kind in kinds for root in folder.glob(kind)]
        if roots:
            return {root.relative_to(folder).as_posix(): root for root in roots}
    return {}
