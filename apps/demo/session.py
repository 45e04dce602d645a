"""What belongs to one visitor: files that nobody else sees, and the stop button."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Any

MOST = 200
"""Visitors whose files are kept; those of the one who has been here longest go first."""


@dataclass
class Session:
    """One visitor.

    Attributes:
        stop: set to end what runs for them.
        drawn: the pictures that they made last, in their folder.
        learned: what they trained last.
        folder: theirs alone.
    """

    stop: Event = field(default_factory=Event)
    drawn: tuple[Path, ...] = ()
    learned: Any = None
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="diffusteer-")))

    def place(self, name: str) -> Path:
        """A new empty folder in the visitor's own."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def end(self) -> None:
        """Stop what runs and delete the files."""
        self.stop.set()
        shutil.rmtree(self.folder, ignore_errors=True)


class Sessions:
    """The visitors, by the name that their browser tab gave itself."""

    def __init__(self) -> None:
        self._open: dict[str, Session] = {}
        self._lock = Lock()

    def of(self, request: Any) -> Session:
        """The session of a request of gradio."""
        key = str(request.session_hash)
        with self._lock:
            if key not in self._open:
                while len(self._open) >= MOST:
                    self._open.pop(next(iter(self._open))).end()
                self._open[key] = Session()
            return self._open[key]

    def end(self, request: Any) -> None:
        """End the session of a tab that was closed."""
        with self._lock:
            session = self._open.pop(str(request.session_hash), None)
        if session is not None:
            session.end()

    def end_all(self) -> None:
        """End all sessions."""
        with self._lock:
            for session in self._open.values():
                session.end()
            self._open.clear()
