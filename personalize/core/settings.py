"""Settings of a training run, checked before a model is loaded; light enough for ``--help``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]

_OPTIONAL_PACKAGES = {
    "use_8bit_adam": "bitsandbytes",
    "enable_xformers_memory_efficient_attention": "xformers",
}
_TRACKERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
# What a run may change on the way, because no later number depends on it.
FREE = frozenset(
    {
        "checkpointing_steps",
        "checkpoints_total_limit",
        "resume_from_checkpoint",
        "validation_prompt",
        "num_validation_images",
        "validation_steps",
        "validation_samples",
        "report_to",
    }
)


class StrictSettings(BaseModel):
    """No other names, no other types, no changes."""

    # strict: a "3" or a 3.0 where a whole number goes is a slip of the pen.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class TrainSettings(StrictSettings):
    """How to train. Names are those of the example scripts of diffusers.

    Raises:
        pydantic.ValidationError: a ``ValueError`` that lists every problem.
    """

    train_batch_size: Positive = 1
    """Pictures of a process at once; halved, and accumulated more often, if memory runs out."""
    gradient_accumulation_steps: Positive = 4
    """Batches of an optimizer step."""
    max_train_steps: Positive = 3000
    """Optimizer steps."""
    learning_rate: Rate = 5e-4
    """Of AdamW, or of the method's own optimizer."""
    scale_lr: bool = False
    """Multiply the learning rate by batch size, accumulation and processes."""
    lr_scheduler: Literal[
        "constant",
        "constant_with_warmup",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
    ] = "constant"
    """Course of the learning rate, from ``diffusers.get_scheduler``."""
    lr_warmup_steps: Natural = 0
    """Steps of rising rate; ``constant`` has none."""
    lr_num_cycles: Positive = 1
    """Restarts of ``cosine_with_restarts``."""
    lr_power: Rate = 1.0
    """Of ``polynomial``."""
    adam_beta1: Decay = 0.9
    """Of AdamW."""
    adam_beta2: Decay = 0.999
    """Of AdamW."""
    adam_weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of AdamW."""
    adam_epsilon: Rate = 1e-8
    """Of AdamW."""
    use_8bit_adam: bool = False
    """AdamW of bitsandbytes."""
    max_grad_norm: Rate | None = None
    """Longer gradients are shortened to this norm."""
    ema_decay: Decay = 0.0
    """Write the running mean of the parameters instead of the last; 0 is off."""
    snr_gamma: Rate | None = None
    """Min-SNR weighting of the loss, 5 in its paper."""
    masked_loss: bool = False
    """Count the error within the masks only; every picture must have one."""
    timestep_low: Annotated[int, Field(ge=0, le=999)] = 0
    """First timestep to train on, of 1000."""
    timestep_high: Annotated[int, Field(ge=1, le=1000)] = 1000
    """End of the timesteps to train on, itself not included."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Arithmetic of the frozen networks, what is trained stays in float32; not given: as
    ``accelerate launch`` says, else ``no``."""
    gradient_checkpointing: bool = False
    """Less memory, more time."""
    enable_xformers_memory_efficient_attention: bool = False
    """Attention of xformers instead of torch's own."""
    allow_tf32: bool = False
    """Faster float32 products on Ampere and later, with 10 bits."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of everything random."""
    checkpointing_steps: Positive = 500
    """Steps between two checkpoints."""
    checkpoints_total_limit: Positive | None = None
    """Checkpoints to keep; the oldest go first."""
    resume_from_checkpoint: str | None = None
    """``latest``, or the path of a checkpoint."""
    validation_prompt: str | None = None
    """Draw pictures of this text now and then; ``{}`` stands for the placeholder."""
    num_validation_images: Positive = 4
    """Pictures of a validation."""
    validation_steps: Positive = 100
    """Steps between two validations."""
    validation_samples: Natural = 0
    """Samples of fixed picture, noise and timestep whose loss is logged; 0 is off."""
    report_to: Literal["tensorboard", "wandb"] | None = None
    """Tracker to log to, beside ``log.jsonl``."""

    @field_validator(*_OPTIONAL_PACKAGES)
    @classmethod
    def _installed(cls, wanted: bool, info: ValidationInfo) -> bool:
        package = _OPTIONAL_PACKAGES[str(info.field_name)]
        if wanted and find_spec(package) is None:
            raise ValueError(f"needs {package}; pip install {package}")
        return wanted

    @field_validator("report_to")
    @classmethod
    def _tracker_installed(cls, tracker: str | None) -> str | None:
        if tracker and not any(find_spec(package) for package in _TRACKERS[tracker]):
            raise ValueError(f"needs {tracker}; pip install {tracker}")
        return tracker

    @model_validator(mode="after")
    def _timesteps_in_order(self) -> Self:
        if self.timestep_low >= self.timestep_high:
            raise ValueError(
                f"timestep_low must be below timestep_high, found {self.timestep_low} and "
                f"{self.timestep_high}"
            )
        return self

    def preferring(self, defaults: Mapping[str, Any]) -> Self:
        """These settings, with other defaults for what was not set."""
        return type(self).model_validate(dict(defaults) | self.model_dump(exclude_unset=True))

    def rate(self, processes: int) -> float:
        """The learning rate, scaled if it is to be."""
        share = self.train_batch_size * self.gradient_accumulation_steps
        return self.learning_rate * (share * processes if self.scale_lr else 1)

    def changes(self, other: TrainSettings) -> list[str]:
        """What differs from another run's settings and changes its numbers, each in a few words."""
        free = set(FREE)
        if self.lr_scheduler == other.lr_scheduler and self.lr_scheduler.startswith("constant"):
            free.add("max_train_steps")
        found, wanted = other.model_dump(), self.model_dump()
        return [
            f"{name} {found[name]} -> {wanted[name]}"
            for name in wanted
            if name not in free and found[name] != wanted[name]
        ]


class DataSettings(StrictSettings):
    """How pictures and their texts become samples."""

    resolution: Annotated[int, Field(ge=16)] | None = None
    """Side in pixels; the model's own if not given."""
    crop: Literal["center", "random"] = "center"
    """Where to cut the square out of a picture whose short side has the resolution."""
    flip: Share = 0.0
    """How often a picture is mirrored; 0 for faces, letters and what has a left and a right."""
    learnable_property: Literal["object", "style"] = "object"
    """Templates to use for pictures without captions."""
    templates: Annotated[Path | None, Field(strict=False)] = None
    """File of templates to use instead, one per line, each with ``{}``."""
    captions: bool = True
    """Use ``metadata.jsonl`` or text files beside the pictures, where there are any."""
