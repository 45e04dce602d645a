"""Evaluation of branches for one denoiser call: each at most once, together or one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from guidance.core.family import Arguments
from guidance.core.prediction import COND, Branch

BATCHINGS = ("joint", "sequential")


class Evaluations:
    """Denoiser outputs of one step, by branch.

    Args:
        plain: the denoiser's own call.
        arguments: what the pipeline passed.
        has_all_rows: whether the arguments hold rows of every branch or of the cond one only.
        batching: ``"joint"`` runs all wanted branches in one batch, ``"sequential"`` one by one.
        missing: makes the error for a branch that has no rows.
    """

    def __init__(
        self,
        plain: Callable[..., Any],
        arguments: Arguments,
        has_all_rows: bool,
        batching: str,
        missing: Callable[[Branch], ValueError],
    ) -> None:
        self._plain, self._arguments, self._missing = plain, arguments, missing
        self._batching = batching
        self.order = arguments.family.order if has_all_rows else (COND,)
        self.outputs: dict[Branch, Tensor] = {}
        self._last: Any = None

    @property
    def sample(self) -> Tensor:
        """The conditional rows of the noisy input."""
        rows = self._arguments.sample.chunk(len(self.order))
        return rows[self.order.index(COND)]

    @property
    def spent(self) -> int:
        """Denoiser evaluations per image so far."""
        return len(self.outputs)

    def prepare(self, branches: Iterable[Branch]) -> None:
        """Evaluate several branches, in one batch where the batching allows."""
        wanted = list(branches)
        if self._batching == "joint" and set(self.order) <= set(wanted):
            self._run_all()
        for branch in wanted:
            self.output(branch)

    def output(self, branch: Branch) -> Tensor:
        """The denoiser's output for this branch with all its channels, ``(B, ...)``."""
        if branch not in self.outputs:
            if branch not in self.order:
                raise self._missing(branch)
            if len(self.order) == 1:
                self._run_all()
            else:
                args, kwargs = self._arguments.select(branch)
                self._last = self._plain(*args, **kwargs)
                self.outputs[branch] = self._last[0]
        return self.outputs[branch]

    def _run_all(self) -> None:
        """The pipeline's own call as it is, so that it rounds as it does without us."""
        args, kwargs = self._arguments.original
        self._last = self._plain(*args, **kwargs)
        stacks = self._last[0].chunk(len(self.order))
        self.outputs.update(zip(self.order, stacks, strict=True))

    def answer(self, guided: Tensor) -> Any:
        """What the denoiser returns: the guided prediction in the rows of every branch.

        Channels beyond the guided ones stay those of the branch, or of cond where it was skipped.
        """
        cond, axis = self.output(COND), self._arguments.family.channels
        done = guided.shape[axis]
        stacks = []
        for branch in self.order:
            own = self.outputs.get(branch, cond)
            rest = own.narrow(axis, done, own.shape[axis] - done)
            stacks.append(torch.cat([guided, rest], axis) if rest.numel() else guided)
        prediction = torch.cat(stacks)
        if isinstance(self._last, tuple):
            return (prediction, *self._last[1:])
        first = next(iter(self._last))
        return type(self._last)(**{**self._last, first: prediction})
