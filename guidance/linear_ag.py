"""LinearAG: unconditional predictions from a linear regression on earlier ones.

"Adaptive Guidance: Training-free Acceleration of Conditional Diffusion Models", Angela Castillo et
al., 2023, arXiv 2312.12487, section on LinearAG.

    u_i ~ sum_{j <= i} b_ij c_j + sum_{j < i} d_ij u_j      c_j, u_j: cond and uncond of call j
    first half of the run:   u_i evaluated at even calls, estimated at odd ones; guided
    second half:             cond alone

so that 20 calls cost 25 evaluations instead of 40. The coefficients are shared by all values of all
images and fitted by least squares on runs with full guidance; later estimates take earlier ones for
the truth. Works in the model's own space.

Deviations: all earlier calls are regressors, where the paper's window is not known to us; a small
ridge, because predictions of neighbouring calls are almost collinear. A fit holds for one model,
scheduler, number of calls, scale and size of image, and for the negative prompt it was made with.
All but the last are checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isclose, isfinite
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from guidance.cfg import cfg
from guidance.core.family import Family
from guidance.core.kinds import Direction
from guidance.core.prediction import COND, UNCOND, Branch, Step, wide
from guidance.core.schedule import check_number

_HISTORY = "LinearAG: history"


def gram(cond: Tensor, uncond: Tensor) -> Tensor:
    """Inner products of the predictions of a run; those of several runs add up.

    Args:
        cond, uncond: predictions of ``T`` calls ``(T, ...)``.

    Returns:
        ``(2 T, 2 T)`` in float64 on the CPU: conditional predictions first.
    """
    rows = torch.cat([cond.flatten(1), uncond.flatten(1)]).double().cpu()
    return rows @ rows.T


def solve(products: Tensor, ridge: float = 1e-6) -> list[Tensor]:
    """Coefficients of every call by least squares.

    Args:
        products: sum of the ``gram`` of all runs, ``(2 T, 2 T)``.
        ridge: added to the diagonal of the normal equations, in units of its mean.

    Returns:
        For call ``i``, those of ``c_0 ... c_i, u_0 ... u_{i-1}``: ``(2 i + 1,)``.

    Source: the regression at the top of this file.
    """
    count, betas = len(products) // 2, []
    for i in range(count):
        known = [*range(i + 1), *range(count, count + i)]
        normal = products[known][:, known]
        normal = normal + ridge * normal.diagonal().mean() * torch.eye(len(known)).to(normal)
        target = products[known, count + i].unsqueeze(1)
        betas.append(torch.linalg.lstsq(normal, target, driver="gelsd").solution.squeeze(1))
    return betas


def fit(cond: Tensor, uncond: Tensor, ridge: float = 1e-6) -> list[Tensor]:
    """Coefficients of every call from recorded predictions; see ``gram`` and ``solve``."""
    return solve(gram(cond, uncond), ridge)


def predict(cond: Sequence[Tensor], uncond: Sequence[Tensor], beta: Tensor) -> Tensor:
    """Estimate of the unconditional prediction of a call.

    Args:
        cond: conditional predictions up to this call, ``i + 1`` of ``(B, ...)``.
        uncond: earlier unconditional ones, true or estimated, ``i`` of ``(B, ...)``.
        beta: coefficients ``(2 i + 1,)``.

    Returns:
        ``(B, ...)`` in the dtype of the predictions, computed in float32 at least.
    """
    known = [*cond, *uncond]
    terms = (b * wide(each) for b, each in zip(beta.tolist(), known, strict=True))
    return sum(terms, torch.zeros_like(wide(known[0]))).to(known[0].dtype)


@dataclass(frozen=True)
class Fit:
    """Coefficients, and what they hold for.

    Attributes:
        model: class name of the denoiser and digest of its configuration.
        scheduler: class name.
        scale: guidance scale of the recorded runs.
        calls: denoiser calls in a run.
        shape: of a prediction, without the batch.
        timesteps: of the calls of the first half.
        images: how many images were recorded.
        coefficients: for each call of the first half.
    """

    model: str
    scheduler: str
    scale: float
    calls: int
    shape: tuple[int, ...]
    timesteps: tuple[float, ...]
    images: int
    coefficients: tuple[tuple[float, ...], ...]

    def save(self, path: str | Path) -> None:
        """Write the JSON file that ``LinearAG`` takes."""
        Path(path).write_text(json.dumps({"method": "LinearAG", **vars(self)}, indent=1) + "\n")

    @staticmethod
    def load(path: str | Path) -> Fit:
        """Read what ``save`` wrote; raises ValueError for any other file."""
        try:
            values = json.loads(Path(path).read_text())
            if not isinstance(values, dict) or values.pop("method", None) != "LinearAG":
                raise ValueError("it holds something else")
            found = Fit(**{name: _as_tuples(value) for name, value in values.items()})
            found._check()
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"LinearAG: coefficients={str(path)!r} must be a file written by fit_linear_ag, "
                f"but {error}"
            ) from error
        return found

    def _check(self) -> None:
        sizes = [len(beta) for beta in self.coefficients]
        half = (self.calls + 1) // 2
        if sizes != [2 * i + 1 for i in range(half)] or len(self.timesteps) != half:
            raise ValueError(f"its coefficients do not suit {self.calls} calls")
        if not all(isfinite(value) for beta in self.coefficients for value in beta):
            raise ValueError("its coefficients are not finite")


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


@dataclass(frozen=True, repr=False)
class LinearAG(Direction):
    """Classifier-free guidance for five eighths of its cost, after a fit.

    Args:
        scale: the guidance scale, a finite number from 0 up; the one of the fit, or 1, neutral,
            where nothing is evaluated or estimated.
        coefficients: JSON file that ``fit_linear_ag`` wrote.

    Raises:
        TypeError, ValueError: the scale is no number in its range, the file is none of ours or of
            another scale; on entering a guide block, of another model; in a run, of other calls or
            of another size of image. The rule cannot be limited to a part of the run.
    """

    owns_uncond: ClassVar[bool] = True

    scale: float
    coefficients: str
    fitted: Fit = field(init=False, compare=False)

    def __post_init__(self) -> None:
        scale = check_number("LinearAG", "scale", self.scale)
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "coefficients", str(self.coefficients))
        object.__setattr__(self, "fitted", Fit.load(self.coefficients))
        if scale != 1:
            self._expect("scale", scale, self.fitted.scale)

    def check(self, model: nn.Module, family: Family) -> tuple[str, ...]:
        self._expect("model", model_name(model), self.fitted.model)
        return ()

    def needs(self, step: Step) -> Iterable[Branch]:
        evaluates = self._guides(step) and step.index % 2 == 0
        return (UNCOND,) if evaluates else ()

    def guide(self, step: Step) -> Tensor:
        cond = step.evaluate(COND)
        if not self._guides(step):
            step.memory.pop(_HISTORY, None)
            step.notes["scale"] = 1.0
            return cond
        self._check_call(step, cond)
        conds, unconds = step.memory.setdefault(_HISTORY, ([], []))
        if len(conds) != step.index:
            raise ValueError("LinearAG: it must act from the first call on; leave out .between")
        conds.append(cond)
        if step.index % 2 == 0:
            unconds.append(step.evaluate(UNCOND))
        else:
            beta = torch.tensor(self.fitted.coefficients[step.index], dtype=torch.float64)
            unconds.append(predict(conds, unconds, beta))
        step.notes["scale"] = self.scale
        return cfg(unconds[-1], cond, self.scale)

    def _guides(self, step: Step) -> bool:
        return self.scale != 1 and 2 * step.index < step.count

    def _check_call(self, step: Step, cond: Tensor) -> None:
        self._expect("scheduler", step.scheduler, self.fitted.scheduler)
        self._expect("number of calls", step.count, self.fitted.calls)
        self._expect("size of the image", tuple(cond.shape[1:]), self.fitted.shape)
        expected = self.fitted.timesteps[step.index]
        if not isclose(step.timestep, expected, rel_tol=5e-3, abs_tol=0.5):
            self._expect(f"timestep at call {step.index}", step.timestep, expected)

    def _expect(self, name: str, found: Any, fitted: Any) -> None:
        if found != fitted:
            raise ValueError(
                f"LinearAG: coefficients={self.coefficients!r} were fitted for another {name}: "
                f"expected {fitted}, found {found}; fit them anew by fit_linear_ag"
            )


def model_name(model: Any) -> str:
    """Class of a denoiser and digest of its configuration."""
    public = {key: value for key, value in model.config.items() if not key.startswith("_")}
    text = json.dumps(public, sort_keys=True, default=str)
    return f"{type(model).__name__} {hashlib.sha256(text.encode()).hexdigest()[:12]}"
