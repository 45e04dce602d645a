"""Work in a thread of its own, whose news arrive as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Generic, TypeVar

News = TypeVar("News")

Emit = Callable[[News], None]


class _End(Generic[News]):
    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def stream(work: Callable[[Emit[News]], None], stop: Event) -> Iterator[News]:
    """Yield what the work emits; of news that came in the meantime the latest alone.

    Args:
        work: is given the function to emit with, and ends soon after a stop.
        stop: set where the iterator is closed before the end.

    Raises:
        Exception: what the work raised.
    """
    mail: SimpleQueue[News | _End[News]] = SimpleQueue()

    def run() -> None:
        try:
            work(mail.put)
        except BaseException as error:  # raised again where the news are read
            mail.put(_End(error))
        else:
            mail.put(_End())

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            latest, end = _latest(mail)
            yield from latest
            if end is not None:
                if end.error is not None:
                    raise end.error
                return
    except GeneratorExit:
        stop.set()
        raise
    finally:
        thread.join()


def _latest(mail: SimpleQueue[News | _End[News]]) -> tuple[list[News], _End[News] | None]:
    """The latest news, waited for, and the end if it has come."""
    latest: list[News] = []
    found: News | _End[News] = mail.get()
    while not isinstance(found, _End):
        latest = [found]
        try:
            found = mail.get_nowait()
        except Empty:
            return latest, None
    return latest, found
