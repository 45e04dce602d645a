"""The fit of ``LinearAG``: coefficients from images that are made with full guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidance.cfg import CFG, cfg
from guidance.core.denoiser import network
from guidance.core.guide import guide
from guidance.core.prediction import COND, UNCOND, Step, wide
from guidance.core.schedule import check_number
from guidance.core.target import Target
from guidance.linear_ag import Fit, LinearAG, gram, model_name, solve


@dataclass(frozen=True, repr=False)
class _Recorder(CFG):
    """Full guidance that keeps the predictions of the first half of a run."""

    records: list[tuple[float, Tensor, Tensor]] = field(default_factory=list, init=False)

    def combine(self, step: Step, scale: float) -> Tensor:
        uncond, cond = step.evaluate(UNCOND), step.evaluate(COND)
        if 2 * step.index < step.count:
            self.records.append((step.timestep, wide(cond).cpu(), wide(uncond).cpu()))
        return cfg(uncond, cond, scale)


def fit_linear_ag(
    pipe: Any,
    prompts: Sequence[str] | Sequence[int],
    scale: float,
    steps: int,
    path: str | Path,
    *,
    generator: torch.Generator | None = None,
    ridge: float = 1e-6,
    call: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> LinearAG:
    """Fit and save coefficients on images made with full guidance, one for each prompt.

    Args:
        pipe: diffusers pipeline, with the scheduler to fit for.
        prompts: texts or class labels; the paper uses 200.
        scale: guidance scale above 1.
        steps: inference steps.
        path: JSON file to write.
        generator: source of the initial noise; None for the pipeline's own choice.
        ridge: see ``solve``.
        call: further arguments of the pipeline's call, such as the size of the image.
        on_progress: called with the number of finished prompts and of all.

    Returns:
        The fitted rule.

    Raises:
        TypeError, ValueError: no prompt, or a scale that is no number above 1.
    """
    if isinstance(prompts, str) or not prompts:
        raise ValueError(f"fit_linear_ag: prompts must hold at least one prompt, found {prompts!r}")
    if check_number("fit_linear_ag", "scale", scale) <= 1:
        raise ValueError(f"fit_linear_ag: scale must be a number above 1, found {scale:g}")
    target = Target(pipe)
    model, family = next(iter(target.denoisers.items()))
    settings: dict[str, Any] = {
        "num_inference_steps": steps,
        "generator": generator,
        "output_type": "latent",
        family.scale: scale - family.offset,
        **(call or {}),
    }
    products: Any = 0.0
    for number, prompt in enumerate(prompts, 1):
        recorder = _Recorder(scale)
        with guide(pipe, recorder) as run:
            pipe([prompt], **settings)
        times, conds, unconds = zip(*recorder.records, strict=True)
        products = products + gram(torch.stack(conds), torch.stack(unconds))
        if on_progress is not None:
            on_progress(number, len(prompts))
    Fit(
        model=model_name(network(model)),
        scheduler=type(pipe.scheduler).__name__,
        scale=float(scale),
        calls=len(run.report.steps),
        shape=tuple(conds[0].shape[1:]),
        timesteps=times,
        images=len(prompts),
        coefficients=tuple(tuple(beta.tolist()) for beta in solve(products, ridge)),
    ).save(path)
    return LinearAG(scale, str(path))
