"""What a search has scored so far, on disk: a stopped one goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guidance.head_set import Heads, write_whole


class HuntLog:
    """A folder with the settings of one search and a line for each set of heads that is scored.

    Args:
        folder: made when there is something to keep; None keeps nothing.
        settings: all that decides the scores, as JSON types.
    """

    def __init__(self, folder: str | Path | None, settings: Mapping[str, Any]) -> None:
        self._folder = None if folder is None else Path(folder)
        self._settings = settings

    def read(self) -> dict[Heads, list[float]]:
        """Scores of the images of each set; a last line that is not whole is cut off.

        Raises:
            ValueError: the folder holds another search, or files that are broken.
        """
        if self._folder is None:
            return {}
        about, lines = self._folder / "settings.json", self._folder / "scores.jsonl"
        if not about.is_file() and not lines.is_file():
            return {}
        try:
            before = json.loads(about.read_text(encoding="utf-8"))
            *whole, rest = lines.read_text(encoding="utf-8").split("\n")
            known = {
                tuple((layer, head) for layer, head in entry["heads"]): entry["scores"]
                for entry in map(json.loads, whole)
            }
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"folder {str(self._folder)!r} holds scores that cannot be read ({error}); delete "
                "it or choose another one"
            ) from error
        self._compare(before)
        if rest:
            write_whole(lines, "".join(f"{line}\n" for line in whole))
        return known

    def add(self, heads: Heads, scores: Sequence[float]) -> None:
        """Keep the scores of a set, for good when this returns."""
        if self._folder is None:
            return
        about = self._folder / "settings.json"
        if not about.is_file():
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / "scores.jsonl").touch()
            write_whole(about, json.dumps(self._settings, indent=1, ensure_ascii=False) + "\n")
        with (self._folder / "scores.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"heads": heads, "scores": scores}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _compare(self, before: Mapping[str, Any]) -> None:
        for name in {**before, **self._settings}:
            was, now = before.get(name), self._settings.get(name)
            if was != now:
                raise ValueError(
                    f"folder {str(self._folder)!r} holds another search: its {name} is "
                    f"{was!r:.60}, found {now!r:.60}; choose another folder or delete it"
                )
