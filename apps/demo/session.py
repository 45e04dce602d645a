"""What belongs to one visitor: files that nobody else sees, and the stop buttons."""

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
class Task:
    """Work that a visitor asked for.

    Attributes:
        stop: set to end it, or to keep it from beginning.
        begun: whether its turn in the line has come.
    """

    stop: Event = field(default_factory=Event)
    begun: bool = False


@dataclass
class Session:
    """One visitor.

    Attributes:
        tasks: what they asked for last, by name.
        drawn: the pictures that they made last, in their folder.
        learned: what they trained last.
        folder: theirs alone.
    """

    tasks: dict[str, Task] = field(default_factory=dict)
    drawn: tuple[Path, ...] = ()
    learned: Any = None
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="diffusteer-")))

    def place(self, name: str) -> Path:
        """A new empty folder in the visitor's own."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def ask(self, name: str) -> None:
        """A new task stands in line; only a stop from now on is meant for it."""
        self.tasks[name] = Task()

    def begin(self, name: str) -> Event:
        """The stop of a task whose turn has come, set if it was stopped in the line."""
        if name not in self.tasks or self.tasks[name].begun:  # a program does not ask before
            self.ask(name)
        self.tasks[name].begun = True
        return self.tasks[name].stop

    def halt(self, name: str) -> bool:
        """Stop a task; whether it stood in line still."""
        task = self.tasks.get(name, Task(begun=True))
        task.stop.set()
        return not task.begun

    def end(self) -> None:
        """Stop what runs and waits, and delete the files."""
        for task in [*self.tasks.values()]:
            task.stop.set()
        shutil.rmtree(self.folder, ignore_errors=True)


class Sessions:
    """The visitors, by the name that their browser tab gave itself.

    Attributes:
        device: held by the one task that runs.
    """

    def __init__(self) -> None:
        self.device = Lock()
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
