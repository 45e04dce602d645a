"""How far a search for heads is, and what it has scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from guidance.head_set import Head, Heads


@dataclass(frozen=True)
class Progress:
    """Where a search is.

    Attributes:
        done: images made so far, also those of an earlier run.
        total: images of the whole search.
        baseline: mean score with no head softened, None before it is known.
        rounds: as in ``HeadSet``; the last of them is under way.
    """

    done: int
    total: int
    baseline: float | None
    rounds: tuple[Mapping[Head, float], ...]

    @property
    def heads(self) -> Heads:
        """The heads found so far: the best of each round but the last, which is not over."""
        return tuple(max(scored, key=scored.__getitem__) for scored in self.rounds[:-1])


OnProgress = Callable[[Progress], None]
"""Called before the first image is made, and whenever a set of heads is scored."""
