"""SIGINT and SIGTERM as a request to come to an end."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self


class StopSignals:
    """Collects SIGINT and SIGTERM in a ``with`` block, where the main thread runs it."""

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._kept: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._kept[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._kept.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number)

    @property
    def received(self) -> int:
        """The signal that came, 0 for none."""
        return int(self._received or 0)

    def leave_if_asked(self) -> None:
        """Raise as ``leave`` does once a signal has come."""
        if self._received:
            leave(self._received)


def leave(number: int) -> NoReturn:
    """Raise KeyboardInterrupt for SIGINT, and SystemExit with 128 + its number for another."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
