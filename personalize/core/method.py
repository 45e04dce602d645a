"""What a personalization method is to the trainer.

The trainer owns the loop, the optimizer, the random numbers, the checkpoints and the validation; a
method says what is trained, its loss, and the file that comes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from personalize.core.artifact import Artifact
    from personalize.core.backbone import Backbone
    from personalize.core.images import Item
    from personalize.core.settings import DataSettings, TrainSettings


@dataclass(frozen=True)
class Context:
    """What a method starts from.

    Attributes:
        backbone: the frozen pipeline, on ``device``, no part of which requires gradients.
        items: the photos, with their captions or templates.
        settings, data: of the run, with the method's defaults filled in.
        device: where to train.
        dtype: of the frozen weights and of what they are given.
        generator: for what a method draws once, such as a random initializer; the same in every
            process and after a resume.
        mean: mean over the processes of a tensor that each of them has.
        owned: whether nobody needs the pipeline afterwards, so that a method may wear it out.
    """

    backbone: Backbone
    items: Sequence[Item]
    settings: TrainSettings
    data: DataSettings
    device: torch.device
    dtype: torch.dtype
    generator: torch.Generator
    mean: Callable[[Tensor], Tensor]
    owned: bool = False


@dataclass(frozen=True)
class Sizes:
    """Micro-conditioning of Stable Diffusion XL, each ``(height, width)`` or ``(top, left)``."""

    original: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """Some samples of one step; one random draw each, whatever the batch that it is in.

    Attributes:
        step: optimizer steps done before this one.
        samples: number of each sample in the run, the same for any batch size and process count.
        items: picture of each sample.
        prompts: text of each sample, with ``{}`` where the placeholder goes; it may have none.
        sizes: micro-conditioning of each sample.
        latents: scaled latents ``(B, ...)`` float32 without noise.
        noise: normal noise of the same shape.
        timesteps: ``(B,)`` as the denoiser takes them.
        noisy: the latents with the noise of ``timesteps``.
        target: what the denoiser should predict for ``noisy``.
        weights: ``(B,)`` weight of each sample in the loss.
        masks: ``(B, 1, h, w)`` in [0, 1] at the size of the latents, or None.
        seed: of the step, the same in every process, for what the method itself draws.
    """

    step: int
    samples: tuple[int, ...]
    items: tuple[Item, ...]
    prompts: tuple[str, ...]
    sizes: tuple[Sizes, ...]
    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    noisy: Tensor
    target: Tensor
    weights: Tensor
    masks: Tensor | None
    seed: int

    def error(self, prediction: Tensor) -> Tensor:
        """Weighted mean square error of each sample ``(B,)`` in float32, within the mask if any."""
        squares = (prediction.float() - self.target.float()).square()
        if self.masks is None:
            errors = squares.flatten(1).mean(1)
        else:
            mask = self.masks.expand_as(squares)
            errors = (squares * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)
        return errors * self.weights

    def generator(self) -> torch.Generator:
        """A new generator on the CPU that is the same in every process and after a resume."""
        return torch.Generator().manual_seed(self.seed)

    @property
    def files(self) -> str:
        """Names of the photos, for messages."""
        return ", ".join(dict.fromkeys(item.name for item in self.items))


class Training:
    """A method at work on one pipeline.

    Attributes:
        parameters: what is trained, by name; float32 leaves on the device of the context.
        groups: factor of the learning rate of a parameter, by name; 1 where it is not named.
    """

    parameters: dict[str, nn.Parameter]
    groups: Mapping[str, float] = {}

    def loss(self, batch: Batch) -> Tensor:
        """Loss of each sample ``(B,)`` in float32; the trainer averages and backpropagates it.

        ``batch.error(prediction)`` is that of the paper in most cases.
        """
        raise NotImplementedError

    def after_step(self, step: int) -> Mapping[str, float]:
        """Act after optimizer step ``step`` (1 is the first); returns what to log."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """What lives beside the parameters and must be in a checkpoint."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` returned; the parameters are back already."""

    def artifact(self) -> Artifact:
        """What to write: tensors and metadata of the method; the trainer adds its own metadata."""
        raise NotImplementedError

    def paused(self) -> AbstractContextManager[None]:
        """The pipeline as it was before ``Method.start``, while the block runs."""
        return nullcontext()

    def stop(self) -> None:
        """Give the pipeline back as it was before ``Method.start``; called once, on errors too."""


class OwnStep(Training):
    """A method that moves its parameters itself, without gradients of the trainer."""

    def step(self, batches: Sequence[Batch], lr: float) -> Mapping[str, float]:
        """Do one step on all batches that this process has in it; returns ``loss`` and what to log.

        Processes must end with equal parameters: average what depends on the batches with
        ``Context.mean``, and draw from ``batches[0].generator()``. It may be called again for the
        same step after an out-of-memory error, so change state only once nothing can fail.
        """
        raise NotImplementedError


@runtime_checkable
class Method(Protocol):
    """Settings of a method: a frozen dataclass.

    Attributes:
        name: as on the command line, such as ``textual-inversion``.
        defaults: train settings that the method prefers to those of ``TrainSettings``.
    """

    name: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]]

    def start(self, context: Context) -> Training:
        """Install what is trained into the pipeline.

        Raises:
            ValueError: the method does not go with the pipeline or the settings; nothing is changed
                then.
        """
        ...
