"""Autoguidance: push away from a weaker version of the model itself.

"Guiding a Diffusion Model with a Bad Version of Itself", Tero Karras, Miika Aittala, Tuomas
Kynkaanniemi, Jaakko Lehtinen, Timo Aila and Samuli Laine, 2024, arXiv 2406.02507.

    guided = D0 + w (D1 - D0)            D1 the model, D0 a weak version of it

Both see the same noise level, sample and *condition*. Works in the model's own space; being affine,
it is the same update in every space. The weak version must make the same kind of errors, only
larger: the paper's are smaller and less trained, and its best scales lie between 1.7 and 2.9.

Deviations: computed as ``D1 + (w - 1) (D1 - D0)``, the same but exact at w = 1. Layers to skip and
adapters to leave out are weak versions for those who have no second checkpoint; they degrade a
model in another way than the paper's. diffusers' guider of this name evaluates its weak branch on
the negative prompt, which mixes the method with classifier-free guidance; for both at once, write
``CFG(4) + AutoGuidance(2, ...)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from guidance.core.clock import prediction_type
from guidance.core.family import Family
from guidance.core.heads import check_selectors
from guidance.core.kinds import Direction
from guidance.core.perturb import Perturbation
from guidance.core.prediction import COND, Branch, Step, per_sample, perturbed, weak, wide
from guidance.core.schedule import Scale, check_scale, scale_at
from guidance.core.weaker import Weaker, WithoutAdapters, check_fit, denoiser_of, load
from guidance.skip_layers import Skipped

WITHOUT_ADAPTERS = "without adapters"


def autoguide(good: Tensor, weak: Tensor, scale: float | Tensor) -> Tensor:
    """Extrapolate from the weak through the good prediction.

    Args:
        good, weak: predictions ``(B, ...)`` in any one space.
        scale: ``w``; a number, or one per sample ``(B,)``. 1 gives good, 0 gives weak.

    Returns:
        Guided prediction ``(B, ...)`` in the dtype of ``good``.

    Source: the equation at the top of this file.
    """
    strong = wide(good)
    return (strong + (per_sample(scale, strong) - 1) * (strong - wide(weak))).to(good.dtype)


@dataclass(frozen=True, repr=False)
class AutoGuidance(Direction):
    """Guidance by a weaker version of the model: fewer outliers without fewer modes.

    Needs no prompt and no unconditional rows: it works alone, and in a sum with CFG. A weak
    denoiser must share the VAE, the schedule and the prediction type of the strong one; its size
    and dtype are its own. It needs memory beside the strong one.

    Args:
        scale: ``w``, finite number from 0 up, schedule, or function of the fraction of the run;
            best from 1.7 to 2.9 in the paper. Neutral at 1, where nothing else is evaluated.
        weak: the weak version, one of
            the folder of a saved denoiser, which is loaded on entering the guide block;
            a denoiser, or a pipeline whose ``transformer`` or ``unet`` is meant;
            a tuple of transformer blocks of the model itself to skip, see ``SkipLayers``;
            ``"without adapters"`` for the model itself without its LoRA; the scale then says how
            strongly the prediction follows what the LoRA has learned.

    Raises:
        TypeError, ValueError: a setting is not of its kind or range; on entering a guide block, a
            weak version that does not fit the model; in a run, a weak pipeline whose scheduler
            expects predictions of another type.
    """

    scale: Scale
    weak: Any
    _network: Weaker | None = field(default=None, init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", check_scale("AutoGuidance", "scale", self.scale))
        if isinstance(self.weak, Path):
            object.__setattr__(self, "weak", str(self.weak))
        elif isinstance(self.weak, list | tuple):
            layers = check_selectors("AutoGuidance", "weak", self.weak, numbered=False)
            object.__setattr__(self, "weak", layers)
        elif not (isinstance(self.weak, str) and self.weak) and denoiser_of(self.weak) is None:
            raise TypeError(
                "AutoGuidance: weak must be a folder, a denoiser, a pipeline, a tuple of blocks to "
                f"skip or {WITHOUT_ADAPTERS!r}, found {self.weak!r:.80}"
            )

    @property
    def perturbation(self) -> Perturbation | None:
        """What makes the model itself weak, None where another denoiser is the weak one."""
        if isinstance(self.weak, tuple):
            return Skipped(self.weak)
        return WithoutAdapters() if self.weak == WITHOUT_ADAPTERS else None

    def check(self, model: nn.Module, family: Family) -> tuple[str, ...]:
        if self.perturbation is not None:
            return self.perturbation.check(model, family)
        saved = isinstance(self.weak, str)
        network: Any = denoiser_of(self.weak)
        if saved:
            known = self._network and self._network.model
            network = known if type(known) is type(model) else load(self.weak, model)
        check_fit(network, model)
        object.__setattr__(self, "_network", Weaker(network, model, moves=saved))
        return ()

    def needs(self, step: Step) -> Iterable[Branch]:
        return () if self.excess(step) == 0 else (self.branch(step),)

    def guide(self, step: Step) -> Tensor:
        scale = step.notes["AutoGuidance: scale"] = self._scale_at(step)
        cond = step.evaluate(COND)
        if self.excess(step) == 0:
            return cond
        return autoguide(cond, step.evaluate(self.branch(step)), scale)

    def excess(self, step: Step) -> float:
        """``w - 1`` at a step; exactly 0 outside the interval, and where w is 1 up to rounding."""
        scale = self._scale_at(step)
        return scale - 1 if self.active(step) and not isclose(scale, 1, rel_tol=1e-6) else 0.0

    def branch(self, step: Step, of: Branch = COND) -> Branch:
        """The weak version of the prediction of a branch.

        Raises:
            ValueError: the weak version is a pipeline whose scheduler expects another type.
        """
        if self.perturbation is not None:
            return perturbed(self.perturbation, of)
        scheduler = getattr(self.weak, "scheduler", None)
        if scheduler is not None and prediction_type(scheduler) != step.prediction_type:
            raise ValueError(
                f"AutoGuidance: weak must predict {step.prediction_type!r} like the strong model, "
                f"found a pipeline for {prediction_type(scheduler)!r}"
            )
        return weak(self._network, of)

    def _scale_at(self, step: Step) -> float:
        return scale_at(self.scale, step.fraction, "AutoGuidance")

    def __repr__(self) -> str:
        if isinstance(self.weak, str | tuple):
            return super().__repr__()
        limits = "".join(map(str, self.intervals))
        return f"AutoGuidance(scale={self.scale!r}, weak=<{type(self.weak).__name__}>){limits}"

    def to_config(self) -> dict[str, Any]:
        if isinstance(self.weak, str | tuple):
            return super().to_config()
        raise ValueError(
            f"AutoGuidance: weak=<{type(self.weak).__name__}> in memory has no JSON form; save the "
            "denoiser and give its folder"
        )
