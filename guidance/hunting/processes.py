"""Work shared by the processes of ``accelerate launch``; one process does it all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from torch import distributed

Item = TypeVar("Item")
Made = TypeVar("Made")


def place() -> tuple[int, int]:
    """Number of this process, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def check_processes() -> None:
    """Raise ValueError if processes were launched together and do not know of each other."""
    launched = int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1
    if place()[1] != launched:
        raise ValueError(
            f"hunt: {launched} processes were launched that do not know of each other; make an "
            "accelerate.PartialState() first"
        )


def once(make: Callable[[], Made]) -> Made:
    """What the first process makes, in all of them."""
    first: Any = _gathered(lambda: make() if place()[0] == 0 else None)[0]
    return first


def shared(items: Sequence[Item], make: Callable[[Item], Made]) -> Iterator[tuple[Item, Made]]:
    """Each item with what a process made of it, dealt out in turn; all processes see all."""
    rank, count = place()
    for start in range(0, len(items), count):
        turn = items[start : start + count]
        parts = _gathered(partial(_each, turn[rank : rank + 1], make))
        yield from zip(turn, (made for part in parts for made in part), strict=True)


def _each(items: Sequence[Item], make: Callable[[Item], Made]) -> list[Made]:
    return [make(item) for item in items]


def _gathered(make: Callable[[], Made]) -> list[Made]:
    """What each process makes, in all of them; so is what one raises."""
    outcome: tuple[Any, Exception | None]
    try:
        outcome = (make(), None)
    except Exception as error:
        outcome = (None, error)
    outcomes = [outcome] * place()[1]
    if len(outcomes) > 1:
        distributed.all_gather_object(outcomes, outcome)
    for _, raised in outcomes:
        if raised is not None:
            raise raised
    results: list[Any] = [made for made, _ in outcomes]
    return results
