"""The processes of an evaluation: who does what, and how it comes together."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env
from tqdm import tqdm

from apps.pipelines import pick_device

Item = TypeVar("Item")
Made = TypeVar("Made")

PATIENCE = timedelta(days=1)
"""How long processes wait while the first one measures; what fails ends them all at once."""


class Processes:
    """One process, or several under ``accelerate launch``.

    Args:
        device: name of the device of a single process; see ``apps.pipelines.pick_device``.

    Raises:
        ValueError: no such device, or several processes cannot work together on it.
    """

    def __init__(self, device: str) -> None:
        of_launch = device == "auto" and parse_flag_from_env("ACCELERATE_USE_CPU")
        own = pick_device("cpu" if of_launch else device)
        launched = int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1
        # The state outlives this: a process that is alone must not keep later programs on the CPU.
        cpu = launched > 1 and own.type == "cpu"
        self._state = PartialState(cpu=cpu, timeout=PATIENCE)
        if self.count != launched:
            raise ValueError(
                f"{launched} processes cannot work together on {own.type}; use --device cpu, or "
                "one process"
            )
        shared = torch.device("cpu") if cpu else self._state.device  # not "cpu:0"
        self.device: torch.device = own if launched == 1 else shared

    @property
    def count(self) -> int:
        """Number of processes."""
        return self._state.num_processes

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self._state.process_index

    @property
    def first(self) -> bool:
        """Whether this is the process that keeps what is made and talks to the user."""
        return self._state.is_main_process

    def once(self, make: Callable[[], Made]) -> Made:
        """What the first process makes, in all of them; so is what it raises."""
        made, error = broadcast_object_list([*(_attempt(make) if self.first else (None, None))])
        if error is not None:
            raise error
        return made

    def each(self, make: Callable[[], Made]) -> list[Made]:
        """What every process makes, in all of them; so is what one raises."""
        outcomes = gather_object([_attempt(make)])
        for _, error in outcomes:
            if error is not None:
                raise error
        return [made for made, _ in outcomes]

    def rounds(
        self, items: Sequence[Item], make: Callable[[Sequence[Item]], Made], batch: int
    ) -> Iterator[list[Made]]:
        """What each process makes of a batch of the items, round by round; all see all of it.

        The items are dealt out in turn. What one process raises is raised in all.
        """
        own = items[self.rank :: self.count]
        for start in range(0, math.ceil(len(items) / self.count), batch):
            yield self.each(partial(make, own[start : start + batch]))

    def spread(
        self,
        items: Sequence[Item],
        make: Callable[[Sequence[Item]], Made],
        batch: int,
        what: str,
        unit: str,
    ) -> Iterator[list[Made]]:
        """``rounds`` under a progress bar."""
        hidden = None if self.first else True
        with tqdm(total=len(items), desc=what, unit=unit, disable=hidden) as bar:
            for made in self.rounds(items, make, batch):
                yield made
                bar.update(min(batch * self.count, len(items) - bar.n))


def _attempt(make: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return make(), None
    except Exception as error:
        return None, error
