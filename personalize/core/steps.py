"""One optimizer step: batches, gradients, and what to do when memory runs out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from personalize.core.method import Batch, OwnStep, Training
from personalize.core.optimizer import Optimizer, Rate
from personalize.core.processes import Processes
from personalize.core.samples import Samples
from personalize.core.settings import TrainSettings

_log = logging.getLogger("diffusteer")
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Steps in a row whose loss scale may be too high before something else is wrong.
_OVERFLOWS = 10


class Feed:
    """The batches that this process has in a step.

    Attributes:
        share: samples of this process in a step.
        size: samples of a batch; halved when memory runs out, with ``share`` as before.
    """

    def __init__(self, samples: Samples, settings: TrainSettings, processes: Processes) -> None:
        self._samples = samples
        self._processes = processes
        self.size = settings.train_batch_size
        self.share = settings.train_batch_size * settings.gradient_accumulation_steps

    def batch(self, step: int, position: int) -> Batch:
        """The batch that begins at a position in this process's share of a step."""
        before = (step * self._processes.count + self._processes.rank) * self.share
        end = min(position + self.size, self.share)
        return self._samples.batch(step, range(before + position, before + end))

    def batches(self, step: int) -> list[Batch]:
        """All batches of a step."""
        return [self.batch(step, position) for position in range(0, self.share, self.size)]

    def files(self, step: int) -> str:
        """Names of the photos of a step, for messages."""
        return ", ".join(dict.fromkeys(batch.files for batch in self.batches(step)))

    def fits(self, error: RuntimeError) -> bool:
        """Whether an error is one of memory that smaller batches may avoid."""
        return self.size > 1 and should_reduce_batch_size(error)

    def halve(self, step: int) -> None:
        """Smaller batches from now on."""
        clear_device_cache(garbage_collection=True)
        self.size = -(-self.size // 2)
        _log.warning(
            "out of memory: batches of %d from step %d on, as many samples in a step as before",
            self.size,
            step + 1,
        )


class Steps(Protocol):
    """Makes the steps of a run.

    Attributes:
        position: samples of the step that are done.
    """

    position: int

    def make(self, step: int, between: Callable[[], None]) -> dict[str, float]:
        """Do the step after ``step`` others, and return what to log.

        Args:
            step: steps done.
            between: called between two batches, where a checkpoint may be written.

        Raises:
            FloatingPointError: the loss or the gradient is not finite.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What lives through a step and from one to the next."""
        ...

    def record(self) -> dict[str, Any]:
        """The rest of it, as JSON."""
        ...

    def restore(
        self, position: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]
    ) -> None:
        """Put back what was in a checkpoint."""
        ...


class GradientSteps:
    """Steps of AdamW along the gradient of ``Training.loss``."""

    def __init__(
        self,
        training: Training,
        feed: Feed,
        rate: Rate,
        settings: TrainSettings,
        processes: Processes,
        precision: str,
    ) -> None:
        self._training, self._feed, self._rate = training, feed, rate
        self._processes, self._precision = processes, precision
        self._limit = settings.max_grad_norm or math.inf
        self._parameters = training.parameters
        self._optimizer = Optimizer(training.parameters, training.groups, settings)
        self._scaler = torch.amp.GradScaler(processes.device.type, enabled=precision == "fp16")
        self._overflows = 0
        self._loss = torch.zeros((), dtype=torch.float64)
        self.position = 0
        for parameter in training.parameters.values():
            parameter.requires_grad_(True)

    def make(self, step: int, between: Callable[[], None]) -> dict[str, float]:
        rate = self._rate(step)
        self._optimizer.set_rate(rate)
        while self.position < self._feed.share:
            self._accumulate(step)
            if self.position < self._feed.share:
                between()
        for name, gradient in self._gradients().items():
            self._parameters[name].grad = self._processes.mean(gradient)
        self._scaler.unscale_(self._optimizer.inner)
        norm = self._norm(step)
        self._scaler.step(self._optimizer.inner)
        self._scaler.update()
        loss = float(self._processes.mean(self._loss.float().to(self._processes.device)))
        self._reset()
        return {"loss": loss, "gradient_norm": norm, "rate": rate}

    def _accumulate(self, step: int) -> None:
        """Add the gradient of the next batch, or halve the batches and begin the step again."""
        batch = self._feed.batch(step, self.position)
        total, no_memory = math.nan, False
        try:
            total = self._backpropagate(batch)
        except RuntimeError as error:
            if not self._feed.fits(error):
                raise
            no_memory = True
        bad = not no_memory and not math.isfinite(total)
        bad_anywhere, no_memory_anywhere = self._processes.largest(bad, no_memory)
        if bad_anywhere:
            found = f"the loss is {total}" if bad else "the loss of another process is not finite"
            raise FloatingPointError(complaint(found, step, batch.files))
        if no_memory_anywhere:
            self._reset()
            self._feed.halve(step)
            return
        self._loss += total / self._feed.share
        self.position += len(batch.samples)

    def _backpropagate(self, batch: Batch) -> float:
        """Sum of the losses of a batch, whose gradient is added where it is finite."""
        with autocast(self._processes.device, self._precision):
            losses = self._training.loss(batch).float()
        total = float(losses.detach().double().sum())
        if math.isfinite(total):
            self._scaler.scale(losses.sum() / self._feed.share).backward()
        return total

    def _gradients(self) -> dict[str, Tensor]:
        """Gradients by name; zeros where there is none, as of a prompt without the placeholder."""
        return {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for name, parameter in self._parameters.items()
        }

    def _norm(self, step: int) -> float:
        """Norm of the gradient, which is shortened if it is too long."""
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._limit))
        if math.isfinite(norm):
            self._overflows = 0
            return norm
        self._overflows += 1
        if not self._scaler.is_enabled() or self._overflows >= _OVERFLOWS:
            files = self._feed.files(step)
            raise FloatingPointError(complaint(f"the gradient's norm is {norm}", step, files))
        return 0.0  # the scaler leaves this step out and lowers its scale

    def _reset(self) -> None:
        self._optimizer.inner.zero_grad(set_to_none=True)
        self._loss = torch.zeros_like(self._loss)
        self.position = 0

    def tensors(self) -> dict[str, Tensor]:
        tensors = {f"optimizer/{name}": t for name, t in self._optimizer.tensors().items()}
        if self.position:
            # Of each process its own: their mean would not add up to the same bits.
            each = self._processes.each
            tensors |= {f"gradient/{name}": each(g) for name, g in self._gradients().items()}
            tensors["loss"] = each(self._loss.to(self._processes.device))
        return tensors

    def record(self) -> dict[str, Any]:
        return {
            "size": self._feed.size,
            "overflows": self._overflows,
            "scaler": self._scaler.state_dict(),
        }

    def restore(
        self, position: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]
    ) -> None:
        self.position, self._feed.size = position, record["size"]
        self._overflows = record["overflows"]
        self._scaler.load_state_dict(record["scaler"])
        self._optimizer.restore(under("optimizer", tensors))
        if position:
            self._loss = tensors["loss"][self._processes.rank]
            for name, gradients in under("gradient", tensors).items():
                parameter = self._parameters[name]
                parameter.grad = gradients[self._processes.rank].to(parameter.device)


class OwnSteps:
    """Steps of a method that makes them itself."""

    def __init__(
        self, training: OwnStep, feed: Feed, rate: Rate, processes: Processes, precision: str
    ) -> None:
        self._training, self._feed, self._rate = training, feed, rate
        self._processes, self._precision = processes, precision
        self.position = 0
        for parameter in training.parameters.values():
            parameter.requires_grad_(False)

    def make(self, step: int, between: Callable[[], None]) -> dict[str, float]:
        rate = self._rate(step)
        while True:
            batches = self._feed.batches(step)
            logged, no_memory = dict[str, float](), False
            try:
                with torch.no_grad(), autocast(self._processes.device, self._precision):
                    logged = dict(self._training.step(batches, rate))
            except RuntimeError as error:
                if not self._feed.fits(error):
                    raise
                no_memory = True
            finite = all(map(math.isfinite, logged.values()))
            bad, no_memory_anywhere = self._processes.largest(not finite, no_memory)
            if bad:
                files = self._feed.files(step)
                raise FloatingPointError(complaint(f"found {logged}", step, files))
            if not no_memory_anywhere:
                return {"rate": rate} | logged
            self._feed.halve(step)

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def record(self) -> dict[str, Any]:
        return {"size": self._feed.size}

    def restore(
        self, position: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]
    ) -> None:
        self._feed.size = record["size"]


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Arithmetic of a precision, by its name on the command line."""
    return nullcontext() if precision == "no" else torch.autocast(device.type, DTYPES[precision])


def complaint(what: str, step: int, files: str) -> str:
    """What to tell of a step after ``step`` others that went wrong."""
    return (
        f"{what} at step {step + 1}, photos {files}; nothing of it is written, try a lower "
        "learning_rate or another mixed_precision"
    )


def under(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``part/``, without it."""
    prefix = f"{part}/"
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
