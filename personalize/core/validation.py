"""Pictures and losses to compare from one step to the next: their noise is always the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from personalize.core.borrowed import sampling
from personalize.core.samples import Samples, seed_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from personalize.core.artifact import Artifact
    from personalize.core.method import Training

STEPS = 25


@torch.no_grad()
def validation_loss(training: Training, samples: Samples, count: int) -> float:
    """Mean loss of ``count`` samples whose photo, noise and noise level never change."""
    losses = [training.loss(samples.fixed(number, count)) for number in range(count)]
    return float(torch.cat(losses).double().mean())


def draw(
    pipe: Any,
    training: Training,
    artifact: Artifact,
    prompt: str,
    *,
    count: int,
    seed: int,
    resolution: int,
    stopped: Callable[[], bool],
) -> list[Image]:
    """Pictures of a prompt from fixed noise, with the artifact loaded as a user would.

    Args:
        pipe: the pipeline in training.
        training: stands aside for the time.
        artifact: what to load.
        prompt: ``{}`` in it becomes the artifact's word.
        count: pictures.
        seed: of the run.
        resolution: side in pixels.
        stopped: asked before each picture; no more are drawn then, and none returned.
    """
    from personalize.core.loading import load, unload

    pictures = []
    with training.paused(), sampling(pipe):
        name = load(pipe, artifact).name
        try:
            for number in range(count):
                if stopped():
                    return []
                noise = torch.Generator().manual_seed(seed_of(seed, "picture", number))
                made = pipe(
                    prompt.replace("{}", artifact.metadata["token"]),
                    generator=noise,
                    num_inference_steps=STEPS,
                    height=resolution,
                    width=resolution,
                )
                pictures += made.images
        finally:
            unload(pipe, name)
    return pictures


def keep_pictures(
    folder: Path, step: int, pictures: Sequence[Image], trackers: Sequence[Any]
) -> None:
    """Write the pictures of a step, and show them to trackers."""
    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(pictures):
        picture.save(folder / f"step-{step:06d}-{number}.png")
    for tracker in trackers if pictures else ():
        layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        stacked = np.stack([np.asarray(picture) for picture in pictures])
        tracker.log_images({"validation": stacked}, step=step, **layout)
