"""Evaluators with chosen or random weights, saved as if they had been trained for a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidance import Step
from guidance.evaluators import (
    EvaluatorConfig,
    NetworkSettings,
    build,
    denoiser_of,
    save_evaluator,
    space_of,
    text_encoder_of,
)
from guidance.evaluators.network import AlignmentNet, Net
from tests import tiny

CLASSES = ("fox", "owl", "hat")
OUTPUTS = {"alignment": 6, "classifier": 3, "minority": 3}


def config_for(pipe: Any, kind: str, read: str = "x0", **shape: Any) -> EvaluatorConfig:
    """What an evaluator of a kind is, trained for a pipeline; rewards read text if it can."""
    reads = kind == "alignment" or (kind == "reward" and hasattr(pipe, "text_encoder"))
    space = space_of(pipe)
    settings: dict[str, Any] = {
        "channels": space.get("channels", space.get("pixels")),
        "outputs": OUTPUTS.get(kind, 1),
        "text": 2 * tiny.WIDTH if reads else 0,
        "width": 8,
        "depth": 2,
    }
    own = kind in ("discriminator", "minority")
    return EvaluatorConfig(
        kind=kind,
        network=NetworkSettings(**settings | shape),
        space=space,
        input=read,
        denoiser=denoiser_of(tiny.denoiser(pipe)) if own else None,
        text_encoder=text_encoder_of(pipe) if reads else None,
        classes=CLASSES if kind in ("classifier", "minority") else None,
        training={"seed": 0},
    )


def random_net(config: EvaluatorConfig, seed: int = 0) -> Net:
    """A network with random weights in every part."""
    torch.manual_seed(seed)
    return build(config.kind, config.network).eval()


def save_for(pipe: Any, folder: Path, kind: str, seed: int = 0, **changes: Any) -> str:
    """Save an evaluator with random weights; its folder."""
    config = config_for(pipe, kind, **changes)
    save_evaluator(folder, random_net(config, seed), config, torch.float32)
    return str(folder)


def leaning_net(config: EvaluatorConfig, sign: float = 1.0) -> Net:
    """A network that says how pictures are ``leaning``, or not, in each of its outputs."""
    net = build(config.kind, config.network)
    core: Any = net.picture if isinstance(net, AlignmentNet) else net
    with torch.no_grad():
        for weight in core.parameters():
            weight.zero_()
        core.stem.weight[0, 0, 1, 1] = 1.0
        core.stem.weight[1, 0, 1, 1] = -1.0
        core.stem.bias.copy_(torch.tensor([0.0, 0.0, 10.0, -10.0, *[0.0] * 4]))
        core.head.weight[:, ::8] = sign * torch.tensor([0.5, -0.5, 0.5, -0.5])
    return net


def leaning(x0: Tensor) -> Tensor:
    """How much brighter a picture is to the left, ``(B,)``.

    Means over the halves of ``c / sqrt((2 c^2 + 200) / 8)``, where c is the first channel.
    """
    c = x0[:, 0].float()
    c = c / ((2 * c**2 + 200) / 8 + 1e-5).sqrt()
    half = c.shape[2] // 2
    return c[..., :half].mean((1, 2)) - c[..., half:].mean((1, 2))


def step(alpha: float = 0.6, sigma: float = 0.8, **changes: Any) -> Step:
    """A call at which nothing is predicted."""
    x = torch.zeros(3, 4, 8, 8)
    return Step(0, 4, 1.0, alpha, sigma, x, "sample", lambda branch: x, **changes)
