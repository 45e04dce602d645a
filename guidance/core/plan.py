"""Evaluation of branches for one denoiser call: each at most once, together or one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from guidance.core.arguments import Arguments
from guidance.core.denoiser import Denoiser, eager, prediction_of, with_prediction
from guidance.core.perturb import Call
from guidance.core.prediction import COND, UNCOND, Branch, limited, perturbed, prompt, weak

BATCHINGS = ("joint", "sequential")

Edit = Callable[[str, Tensor], Tensor]


class Evaluations:
    """Denoiser outputs of one step, by branch.

    Args:
        denoiser: the network to call.
        arguments: what the pipeline passed.
        stacked: whether the arguments hold rows of every branch or of the cond one only.
        batching: ``"joint"`` runs all wanted branches in one batch, ``"sequential"`` one by one.
        prompts: arguments of earlier calls that hold the extra prompts in the cond rows.
        edit: changes an argument with the embedded prompt of the cond rows; None for no change.
        missing: makes the error for a branch that has no rows.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        arguments: Arguments,
        stacked: bool,
        batching: str,
        prompts: Mapping[prompt, Arguments],
        edit: Edit | None,
        missing: Callable[[Branch], ValueError],
    ) -> None:
        self._denoiser, self._original, self._batching = denoiser, arguments, batching
        self._prompts, self._edit, self._missing = prompts, edit, missing
        self.order = arguments.family.order if stacked else (COND,)
        self.images = arguments.total // len(self.order)
        self._rows: dict[Branch, Arguments] = {}
        self._outputs: dict[Branch, Tensor] = {}
        self._form: Any = None
        self._text: Mapping[str, Tensor] = {}
        self._evaluated = 0
        self._traces = False
        self._graph: tuple[Tensor, Tensor] | None = None

    @property
    def sample(self) -> Tensor:
        """The conditional rows of the noisy input."""
        return self._original.sample.chunk(len(self.order))[self.order.index(COND)]

    @property
    def sent(self) -> Arguments:
        """The conditional rows as the pipeline sent them."""
        return self._sent(COND)

    @property
    def spent(self) -> float:
        """Denoiser evaluations per image so far."""
        spent = self._evaluated / self.images
        return int(spent) if spent.is_integer() else spent

    def add(self, branch: Branch, arguments: Arguments) -> None:
        """Give the rows of a branch that the pipeline sends in a call of its own."""
        self._rows[branch] = arguments

    def prepare(self, branches: Iterable[Branch]) -> None:
        """Evaluate several branches, in one batch where the batching allows."""
        wanted = [b for b in dict.fromkeys((COND, *branches)) if b not in self._outputs]
        if self._traces and COND in wanted:
            self._graph = self._trace()
            wanted.remove(COND)
        calls: dict[Any, list[Branch]] = {}
        for branch in wanted:
            calls.setdefault(self._company(branch), []).append(branch)
        for together in calls.values():
            self._evaluate(together)

    def output(self, branch: Branch) -> Tensor:
        """The denoiser's output for this branch with all its channels, ``(B, ...)``."""
        if isinstance(branch, limited) and branch.branch in self._outputs:
            branch = branch.branch
        if branch not in self._outputs:
            self.prepare([branch])
        return self._outputs[branch]

    def rewrite(self, text: Mapping[str, Tensor]) -> None:
        """Give the conditional rows other embedded prompts, by path in the arguments."""
        self._text = text
        self._rows.pop(COND, None)

    def denoised(
        self,
        sample: Tensor,
        timestep: float | None = None,
        text: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The denoiser's output for another noisy input in the conditional rows, ``(B, ...)``.

        Args:
            sample: the noisy input; channels that it lacks are those of the step.
            timestep: that of the scheduler which it belongs to; None for the step's.
            text: embedded prompts by path in place of those that the pipeline sent; None for the
                step's.
        """
        self._evaluated += self.images
        arguments = self._arguments(COND) if text is None else self._sent(COND).with_tensors(text)
        arguments = arguments.with_sample(sample)
        if timestep is not None:
            arguments = arguments.with_time(timestep)
        return prediction_of(arguments.call(self._denoiser.plain))

    def trace(self) -> None:
        """Announce that ``traced`` will be called, so that it shares the conditional evaluation."""
        self._traces = True

    def traced(self) -> tuple[Tensor, Tensor]:
        """Noisy input of the conditional rows in float32, and the denoiser's output with its graph.

        Evaluated anew where ``trace`` was not called, or this is the second call.
        """
        graph, self._graph = self._graph or self._trace(), None
        return graph

    def answer(self, guided: Tensor, into: Any = None) -> Any:
        """What the denoiser returns: the guided prediction in the rows of every branch.

        Channels beyond the guided ones stay those of the branch, or of cond where it was skipped.

        Args:
            guided: prediction ``(B, ...)``.
            into: an earlier answer to fill in place and return.
        """
        cond, axis = self.output(COND), self._original.family.channels
        done = guided.shape[axis]
        stacks = []
        for branch in self.order:
            own = self._outputs.get(branch, cond)
            rest = own.narrow(axis, done, own.shape[axis] - done).to(guided.dtype)
            stacks.append(torch.cat([guided, rest], axis) if rest.numel() else guided)
        if into is None:
            return with_prediction(self._form, torch.cat(stacks))
        prediction_of(into).copy_(torch.cat(stacks))
        return into

    def _company(self, branch: Branch) -> Any:
        """What branches must have in common to share a call of the denoiser."""
        inner = branch.branch if isinstance(branch, limited) else branch
        if self._batching == "sequential":
            return branch
        if isinstance(inner, weak):
            return id(inner.model)
        return branch if isinstance(inner, perturbed) and self._denoiser.compiled else None

    def _evaluate(self, branches: list[Branch]) -> None:
        """One call for all of these branches, or one for each where their shapes differ."""
        if not branches:
            return
        if set(branches) >= set(self.order) and self._edit is None and not self._text:
            # The pipeline's own rows stay as they are, so that they round as without us.
            extra = [branch for branch in branches if branch not in self.order]
            first, names = self._original, [*self.order, *extra]
        else:
            first, *_ = (self._arguments(branch) for branch in branches[:1])
            extra, names = branches[1:], branches
        calls = [self._arguments(branch) for branch in extra]
        joined = first.join(calls) if calls else first
        if joined is None:
            for branch in branches:
                self._evaluate([branch])
            return
        sizes = [len(self._live(branch)) for branch in names]
        self._form, prediction = self._run(joined, names, sizes)
        self._evaluated += sum(sizes)
        for branch, part in zip(names, prediction.split(sizes), strict=True):
            self._outputs[branch] = self._completed(branch, part)

    def _trace(self) -> tuple[Tensor, Tensor]:
        """Evaluate the conditional rows by themselves, with the denoiser's graph."""
        self._evaluated += self.images
        with torch.enable_grad():
            sample = self.sample.detach().float().requires_grad_()
            output = self._arguments(COND).with_sample(sample).call(self._denoiser.plain)
            prediction = prediction_of(output)
        self._form = with_prediction(output, prediction.detach())
        self._outputs.setdefault(COND, prediction.detach())
        return sample, prediction

    def _run(
        self, arguments: Arguments, branches: list[Branch], sizes: list[int]
    ) -> tuple[Any, Tensor]:
        """Call a denoiser while the perturbations of these branches are applied to their rows."""
        start, total, model, plain = 0, sum(sizes), self._denoiser.model, self._denoiser.plain
        with ExitStack() as stack:
            for branch, size in zip(branches, sizes, strict=True):
                inner = branch.branch if isinstance(branch, limited) else branch
                if isinstance(inner, perturbed):
                    call = self._call(arguments, slice(start, start + size), total)
                    if self._denoiser.compiled:
                        stack.enter_context(eager())
                    stack.enter_context(inner.by.applied(model, call))
                elif isinstance(inner, weak):
                    plain = inner.model
                start += size
            output = arguments.call(plain)
        return output, prediction_of(output)

    def _call(self, arguments: Arguments, rows: slice, total: int) -> Call:
        family, sample = arguments.family, arguments.sample
        joint = family.text and "text" in family.tokens
        text = arguments.values.get(family.text[0]) if joint else None
        size = tuple(sample.shape[2:]) if sample.ndim > 3 else ()
        return Call(rows, total, text.shape[1] if isinstance(text, Tensor) else 0, size)

    def _live(self, branch: Branch) -> list[int]:
        """Numbers of the images that a branch is evaluated for."""
        if isinstance(branch, limited):
            return [image for image, live in enumerate(branch.live) if live]
        return list(range(self.images))

    def _completed(self, branch: Branch, part: Tensor) -> Tensor:
        """An output of all images, where those left out have the conditional one."""
        if not isinstance(branch, limited):
            return part
        whole = self.output(COND).clone()
        whole[self._live(branch)] = part
        return whole

    def _arguments(self, branch: Branch) -> Arguments:
        """Arguments that hold only the rows of this branch."""
        if isinstance(branch, limited):
            return self._arguments(branch.branch).take(self._live(branch))
        if branch not in self._rows:
            self._rows[branch] = self._new_arguments(branch)
        return self._rows[branch]

    def _new_arguments(self, branch: Branch) -> Arguments:
        if isinstance(branch, perturbed | weak):
            return self._arguments(branch.of)
        if isinstance(branch, prompt):
            if branch not in self._prompts:
                raise self._missing(branch)
            return self._arguments(COND).replaced(self._prompts[branch])
        if branch not in self.order:
            raise self._missing(branch)
        if branch == UNCOND:
            return self._sent(UNCOND)
        own = self._sent(COND).with_tensors(self._text)
        return own if self._edit is None else own.edited(self._edit)

    def _sent(self, branch: Branch) -> Arguments:
        """The rows of a branch as the pipeline sent them."""
        position = self.order.index(branch) * self.images
        return self._original.take(slice(position, position + self.images))
