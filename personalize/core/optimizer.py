"""The optimizer, its learning rate, and the running mean of the parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from personalize.core.settings import TrainSettings


class Rate:
    """Learning rate of each step: a function of its number, so there is nothing to save."""

    def __init__(self, settings: TrainSettings, processes: int) -> None:
        self._rate = settings.rate(processes)
        # The schedules of diffusers live in an optimizer and read its learning rate.
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=self._rate)
        schedule = get_scheduler(
            settings.lr_scheduler,
            optimizer,
            num_warmup_steps=settings.lr_warmup_steps,
            num_training_steps=settings.max_train_steps,
            num_cycles=settings.lr_num_cycles,
            power=settings.lr_power,
        )
        (self._factor,) = schedule.lr_lambdas

    def __call__(self, step: int) -> float:
        """Learning rate of the step after ``step`` others."""
        return self._rate * float(self._factor(step))


class Optimizer:
    """AdamW over named parameters; its state can be saved as named tensors.

    Args:
        parameters: what to train, by name.
        groups: factor of the learning rate of some of them.
        settings: of the run.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        groups: Mapping[str, float],
        settings: TrainSettings,
    ) -> None:
        self._factors = [groups.get(name, 1.0) for name in parameters]
        self._names = list(parameters)
        if settings.use_8bit_adam:
            from bitsandbytes.optim import AdamW8bit as AdamW
        else:
            from torch.optim import AdamW
        self.inner: torch.optim.Optimizer = AdamW(
            [{"params": [parameter]} for parameter in parameters.values()],
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            eps=settings.adam_epsilon,
            weight_decay=settings.adam_weight_decay,
        )

    def set_rate(self, rate: float) -> None:
        """Learning rate of the next step."""
        for group, factor in zip(self.inner.param_groups, self._factors, strict=True):
            group["lr"] = rate * factor

    def tensors(self) -> dict[str, Tensor]:
        """State of the optimizer by the parameter's name and the entry's."""
        return {
            f"{self._names[index]}|{entry}": value if isinstance(value, Tensor) else _number(value)
            for index, entries in self.inner.state_dict()["state"].items()
            for entry, value in entries.items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``tensors`` returned."""
        whole = self.inner.state_dict()
        state: dict[int, dict[str, Any]] = {}
        for name, value in tensors.items():
            parameter, _, entry = name.rpartition("|")
            plain = value.dtype == torch.int64 and value.ndim == 0
            entries = state.setdefault(self._names.index(parameter), {})
            entries[entry] = int(value) if plain else value
        self.inner.load_state_dict(whole | {"state": state})


class Average:
    """Running mean of parameters; without a decay it is the parameters themselves."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._names = list(parameters)
        self._parameters = list(parameters.values())
        self._ema = EMAModel(self._parameters, decay=decay) if decay else None

    def step(self) -> None:
        """Take the parameters in after an optimizer step."""
        if self._ema:
            self._ema.step(self._parameters)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the parameters hold their running mean while the block runs."""
        if self._ema is None:
            yield
            return
        self._ema.store(self._parameters)
        self._ema.copy_to(self._parameters)
        try:
            yield
        finally:
            self._ema.restore(self._parameters)

    def tensors(self) -> dict[str, Tensor]:
        """The means by name."""
        return dict(zip(self._names, self._ema.shadow_params, strict=True)) if self._ema else {}

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Put back what ``tensors`` returned after ``step`` steps."""
        if self._ema:
            for name, mean in self.tensors().items():
                mean.copy_(tensors[name])
            self._ema.optimization_step = step


def _number(value: Any) -> Tensor:
    return torch.tensor(int(value), dtype=torch.int64)
