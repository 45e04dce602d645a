"""The one training loop of all personalization methods, on accelerate.

A step is ``train_batch_size * gradient_accumulation_steps`` samples in each process. What is random
in a sample depends on its number in the run alone, see ``personalize.core.samples``, so that a
resumed run is the unbroken one and several processes are one with a larger batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from personalize.core import checkpoint
from personalize.core.artifact import Artifact
from personalize.core.backbones import backbone_of
from personalize.core.borrowed import borrowed, tf32
from personalize.core.checkpoint import State
from personalize.core.images import find_items
from personalize.core.method import Method
from personalize.core.processes import Processes
from personalize.core.run import OnProgress, Run
from personalize.core.settings import DataSettings, TrainSettings
from personalize.core.steps import DTYPES
from personalize.core.stopping import StopSignals
from personalize.core.templates import TEMPLATES, read_templates


def train(
    pipe_or_path: Any,
    method: Method,
    images: str | Path,
    output_dir: str | Path,
    settings: TrainSettings | None = None,
    data: DataSettings | None = None,
    on_progress: OnProgress | None = None,
    device: torch.device | None = None,
) -> Artifact:
    """Train a method on the photos of a folder, and write what it has learned.

    Args:
        pipe_or_path: a pipeline, which is given back as it was; or a folder or hub id to load.
        method: such as ``TextualInversion(...)``.
        images: folder of photos, with captions and masks beside them if there are any.
        output_dir: for the result, the checkpoints and the log.
        settings: how to train; what is not set is the method's default.
        data: how photos become samples.
        on_progress: called after every step, and when a phase begins.
        device: where to train; None is the choice of accelerate, which several processes keep to.

    Returns:
        What was written.

    Raises:
        ValueError: something does not go together; nothing is trained then.
        FloatingPointError: a number is not finite; names the step and the photos. The last
            checkpoint is kept, and nothing that is not finite is written.
        KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came; the step was finished and saved.
    """
    settings = (settings or TrainSettings()).preferring(method.defaults)
    data, output_dir = data or DataSettings(), Path(output_dir)
    resumed = _checkpoint(output_dir, settings)
    templates = read_templates(data.templates) if data.templates else None
    items = find_items(images, templates or TEMPLATES[data.learnable_property], data.captions)
    accelerator = Accelerator(log_with=settings.report_to, project_dir=output_dir / "logs")
    processes = Processes(accelerator, device)
    precision = settings.mixed_precision or accelerator.mixed_precision
    if owned := isinstance(pipe_or_path, str | Path):
        pipe, name = _load(pipe_or_path, DTYPES[precision]), _name(pipe_or_path)
    else:
        pipe = pipe_or_path
        name = str(getattr(pipe, "name_or_path", "") or type(pipe).__name__)
    backbone = backbone_of(pipe)
    xformers = settings.enable_xformers_memory_efficient_attention
    with (
        StopSignals() as stop,
        tf32(settings.allow_tf32),
        borrowed(pipe, processes.device, settings.gradient_checkpointing, xformers, owned),
    ):
        run = Run(
            backbone,
            name,
            owned,
            method,
            items,
            output_dir,
            settings,
            data,
            accelerator,
            processes,
            precision,
            stop,
            on_progress or (lambda _: None),
        )
        return run.whole(resumed)


def _checkpoint(output_dir: Path, settings: TrainSettings) -> tuple[Path, State] | None:
    """The checkpoint to resume from, read before a model is loaded."""
    there, wanted = checkpoint.checkpoints(output_dir), settings.resume_from_checkpoint
    if wanted is None:
        if there:
            raise ValueError(
                f"output_dir {str(output_dir)!r} holds {there[-1].name} of a run; resume it with "
                "resume_from_checkpoint=latest, or choose another folder"
            )
        return None
    if wanted == "latest":
        return checkpoint.latest(output_dir)
    path = output_dir / wanted if (output_dir / wanted).is_dir() else Path(wanted)
    state = checkpoint.read(path)
    if there and checkpoint.number(there[-1]) > checkpoint.number(path):
        raise ValueError(
            f"output_dir {str(output_dir)!r} holds {there[-1].name}, which is later than "
            f"{path.name}; choose another folder, or remove the later checkpoints"
        )
    return path, state


def _load(path: str | Path, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(path, dtype=dtype, use_safetensors=True)


def _name(path: str | Path) -> str:
    """The name by which files remember their model: no path of the machine gets into them."""
    return Path(path).resolve().name if Path(path).is_dir() else str(path)
