"""What a name like ``clip:openai/clip-vit-base-patch32`` stands for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


def choose(name: str, table: Mapping[str, Entry], what: str) -> tuple[Entry, str]:
    """The entry of a name in a table of forms, and what the name says after its colon.

    Args:
        name: ``kind`` or ``kind:source``.
        table: entries by form, ``kind`` or ``kind:PLACEHOLDER``.
        what: what the table holds, for the error.

    Raises:
        ValueError: the name has none of the forms.
    """
    kind, _, source = name.partition(":")
    for form, entry in table.items():
        if form.partition(":")[0] == kind and (":" in form) == bool(source):
            return entry, source
    close = difflib.get_close_matches(kind, {form.partition(":")[0] for form in table}, n=1)
    hint = f"; did you mean {close[0]!r}?" if close and close[0] != kind else ""
    raise ValueError(f"no {what} {name!r}{hint} (expected one of {', '.join(table)})")
