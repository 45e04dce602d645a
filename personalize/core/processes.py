"""The processes of ``accelerate launch``, or the only one."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


class Processes:
    """What several processes tell each other; with one of them nothing is sent.

    Args:
        accelerator: tells how many there are.
        device: where a single process works; None is accelerate's choice.

    Attributes:
        first: whether this one writes files.
        count, rank: how many there are, and which this is.
        device: of this one.

    Raises:
        ValueError: several processes were launched on devices of another type.
    """

    def __init__(self, accelerator: Accelerator, device: torch.device | None = None) -> None:
        self._accelerator: Any = accelerator
        self.first = accelerator.is_main_process
        self.count = accelerator.num_processes
        self.rank = accelerator.process_index
        self.device = accelerator.device if self.count > 1 or device is None else device
        if device is not None and device.type != self.device.type:
            raise ValueError(
                f"device must be that of the {self.count} launched processes, "
                f"{self.device.type}, found {str(device)!r}; leave it out"
            )

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean of a tensor over the processes."""
        return tensor if self.count == 1 else self._accelerator.reduce(tensor, "mean")

    def each(self, tensor: Tensor) -> Tensor:
        """The tensor of each process ``(count, ...)``."""
        return tensor[None] if self.count == 1 else self._accelerator.gather(tensor[None])

    def largest(self, *numbers: float) -> list[float]:
        """Each number, the largest of any process."""
        if self.count == 1:
            return list(numbers)
        return self.each(torch.tensor(numbers, device=self.device)).amax(0).tolist()

    def wait(self) -> None:
        """Until all processes are here."""
        self._accelerator.wait_for_everyone()
