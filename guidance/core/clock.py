"""Which call of which run this is, and how noisy its input is.

Steps are counted by denoiser calls, because schedulers repeat timesteps (PNDM, Heun), round them
(bfloat16 pipelines) or hold no step index at the time of the call (DDIM, DPM++).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import nan, sqrt, tan
from typing import Any

import torch

from guidance.core.prediction import MIN_SIGNAL


@dataclass(frozen=True)
class Tick:
    """Place of one denoiser call: see ``Step`` for the fields they share.

    Attributes:
        run: number of the run within the block.
        position: index of the call's time in ``scheduler.timesteps``.
    """

    run: int
    index: int
    count: int
    position: int
    timestep: float
    alpha: float
    sigma: float


def prediction_type(scheduler: Any) -> str:
    """What the model of this scheduler predicts; flow matching schedulers imply their own."""
    kind = str(getattr(scheduler.config, "prediction_type", "epsilon"))
    flow = "FlowMatch" in type(scheduler).__name__ or kind == "trigflow"
    return "flow_prediction" if flow else kind


def noise_level(scheduler: Any, timestep: float, position: int) -> tuple[float, float]:
    """Alpha and sigma of the model input ``x = alpha x0 + sigma eps``.

    Args:
        scheduler: a diffusers scheduler whose timesteps are set.
        timestep: the time given to the model.
        position: index of that time in ``scheduler.timesteps``.

    Returns:
        Two numbers, nan where the scheduler's levels are neither flow nor variance preserving.
    """
    if hasattr(scheduler, "_alpha_cumprod"):
        signal = scheduler._alpha_cumprod(torch.tensor(timestep), torch.device("cpu"))
        return level_of_signal(float(signal))
    if prediction_type(scheduler) == "flow_prediction":
        return level_of_flow(scheduler, position)
    if not hasattr(scheduler, "alphas_cumprod"):
        # EDM's preconditioned input is the variance preserving one where the data has unit spread.
        unit_data = scheduler.config.get("sigma_data") == 1
        return level_of_noise(float(scheduler.sigmas[position])) if unit_data else (nan, nan)
    if hasattr(scheduler, "sigmas"):
        return level_of_noise(_model_input_sigma(scheduler, position))
    return level_of_signal(float(scheduler.alphas_cumprod[round(timestep)]))


def level_of_flow(scheduler: Any, position: int) -> tuple[float, float]:
    """Alpha and sigma of a flow matching scheduler, whose sigmas may count from the data."""
    sigma = _flow_sigma(scheduler, position)
    return (sigma, 1 - sigma) if scheduler.config.get("invert_sigmas") else (1 - sigma, sigma)


def level_of_noise(noise: float) -> tuple[float, float]:
    """Variance preserving alpha and sigma of a noise over signal ``sigma / alpha``."""
    return 1 / sqrt(1 + noise**2), noise / sqrt(1 + noise**2)


def level_of_signal(signal: float) -> tuple[float, float]:
    """Variance preserving alpha and sigma of ``alpha^2``, diffusers' alphas_cumprod."""
    return sqrt(signal), sqrt(1 - signal)


def _flow_sigma(scheduler: Any, position: int) -> float:
    """Sigma of a flow; some schedules hold ``sigma / alpha`` or its angle."""
    if not hasattr(scheduler, "sigmas"):
        noise = tan(float(scheduler.timesteps[position]))
    elif float(scheduler.sigmas.max()) > 1:
        noise = float(scheduler.sigmas[position])
    else:
        return float(scheduler.sigmas[position])
    return noise / (1 + noise)


def _model_input_sigma(scheduler: Any, position: int) -> float:
    """Noise over signal of the model input; midpoint solvers call between two grid points."""
    if not getattr(scheduler, "state_in_first_order", True):
        if hasattr(scheduler, "sigmas_interpol"):
            ancestral = hasattr(scheduler, "sigmas_up")
            return float(scheduler.sigmas_interpol[position - ancestral])
        if getattr(scheduler, "mid_point_sigma", None) is not None:
            return float(scheduler.mid_point_sigma)
    return float(scheduler.sigmas[position])


def _level_elsewhere(scheduler: Any, timestep: float, position: int) -> tuple[float, float]:
    """Alpha and sigma at another place than that of the running call.

    Solvers of two stages say what belongs to a place in the stage that they are in only; their
    times say it always, as a share of the way between two levels of the training.
    """
    staged = hasattr(scheduler, "state_in_first_order") and hasattr(scheduler, "alphas_cumprod")
    if not staged:
        return noise_level(scheduler, timestep, position)
    signal = scheduler.alphas_cumprod.double()
    noise = ((1 - signal) / signal).log() / 2
    below = min(int(timestep), len(noise) - 2)
    level = torch.lerp(noise[below], noise[below + 1], timestep - below)
    return level_of_noise(float(level.exp()))


class Clock:
    """Counts denoiser calls. A new ``scheduler.timesteps`` tensor, or a full run, starts a new run.

    Args:
        scheduler: returns the scheduler in use now.
        calls: returns how many calls the pipeline announced for its run, None where it does not.
    """

    def __init__(self, scheduler: Callable[[], Any], calls: Callable[[], int | None]) -> None:
        self._scheduler, self._calls = scheduler, calls
        self._timesteps: torch.Tensor | None = None
        self._times: list[float] = []
        self._run, self._index, self._count, self._offset = -1, 0, 0, 0

    def tick(self, time: float) -> Tick:
        """Position of the call that is about to happen; call exactly once per denoiser call.

        Args:
            time: the time given to the model, in the units of ``scheduler.timesteps``.
        """
        scheduler = self._scheduler()
        if scheduler.timesteps is not self._timesteps or self._index == self._count:
            self._start(scheduler, time)
        position = self._position(time)
        alpha, sigma = noise_level(scheduler, time, position)
        tick = Tick(self._run, self._index, self._count, position, time, alpha, sigma)
        self._index += 1
        return tick

    def at(self, share: float) -> Tick:
        """The place of a noise level among all of the scheduler's, if the run were there now.

        Args:
            share: from 0, the cleanest, to 1, the noisiest; a level without signal gives way to the
                next one that has some.

        Raises:
            ValueError: no level of the scheduler has signal.
        """
        scheduler, last = self._scheduler(), len(self._times) - 1
        for position in range(max(last - int(share * (last + 1) + 1e-9), 0), last + 1):
            alpha, sigma = _level_elsewhere(scheduler, self._times[position], position)
            if not alpha < MIN_SIGNAL:
                time = self._times[position]
                return Tick(self._run, self._index, self._count, position, time, alpha, sigma)
        raise ValueError(
            f"no noise level of the {last + 1} steps has any signal: expected several steps"
        )

    def after(self) -> tuple[float, float]:
        """Alpha and sigma of the next call; without noise after the last."""
        if self._index >= self._count:
            return 1.0, 0.0
        position = min(self._offset + self._index, len(self._times) - 1)
        return _level_elsewhere(self._scheduler(), self._times[position], position)

    def _start(self, scheduler: Any, time: float) -> None:
        self._timesteps = scheduler.timesteps
        self._times = scheduler.timesteps.tolist()
        begin = getattr(scheduler, "begin_index", None)
        nearest = self._nearest(time)
        self._offset = (nearest if self._is(nearest, time) else 0) if begin is None else begin
        self._run, self._index = self._run + 1, 0
        self._count = self._calls() or len(self._times) - self._offset

    def _position(self, time: float) -> int:
        """Place of this call in the timesteps: by counting, or by value for loops that jump.

        A time that is none of them is in other units, and says nothing.
        """
        expected = self._offset + self._index
        if expected < len(self._times) and self._is(expected, time):
            return expected
        nearest = self._nearest(time)
        return nearest if self._is(nearest, time) else min(expected, len(self._times) - 1)

    def _is(self, position: int, time: float) -> bool:
        return abs(self._times[position] - time) <= 0.005 * abs(time)

    def _nearest(self, time: float) -> int:
        return min(range(len(self._times)), key=lambda i: abs(self._times[i] - time))
