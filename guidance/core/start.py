"""Where and from what a run starts: the scheduler's first timesteps left out, its noise scaled.

The scheduler's ``set_timesteps`` and ``step`` are intercepted. The first shortens the list, and the
levels that go with it, so that pipeline, solver and clock see a run that begins later. The sample
itself is in the hands of the pipeline: it is scaled wherever it goes until the first step is done,
in the denoiser's input and in the scheduler's step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import sqrt
from typing import TYPE_CHECKING, Any

from torch import nn

from guidance.core.arguments import Arguments
from guidance.core.family import Family
from guidance.core.intercept import intercept

if TYPE_CHECKING:
    from guidance.core.clock import Tick
    from guidance.core.rule import Rule, Start

_UNIT_NOISE = (
    "DDPMScheduler",
    "DDIMScheduler",
    "CogVideoXDDIMScheduler",
    "DPMSolverMultistepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
)
"""Schedulers whose samples are model inputs: pure noise has unit variance."""

_SIGMA_NOISE = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
"""Schedulers whose samples are ``x0 + sigma eps``."""


class Starter:
    """Starts the runs of a guide block as its rule wants.

    Args:
        rule: the rule in force.
        name: of what is guided, for errors.
    """

    def __init__(self, rule: Rule, name: str) -> None:
        self._rule, self._name = rule, name
        self._scheduler: Any = None
        self._whole: dict[str, Any] = {}
        self._start: Start | None = None
        self._factor: float | None = None
        self._scaled = 0

    @contextmanager
    def on(self, scheduler: Any, call: Mapping[str, Any], control: Any = None) -> Iterator[None]:
        """Intercept a scheduler during a pipeline's call; on leaving, all is as it was.

        Args:
            scheduler: the scheduler.
            call: arguments of the pipeline's call, empty for a loop of one's own.
            control: the pipeline's ControlNet.

        Raises:
            ValueError: starting anywhere else is not known to be right with this scheduler, or the
                pipeline's call starts from a picture.
        """
        if not self._rule.starts:
            yield
            return
        name = type(scheduler).__name__
        if name not in _UNIT_NOISE + _SIGMA_NOISE:
            raise ValueError(
                f"the rule changes the start of a run, which is not known to be right with {name}: "
                f"expected one of {', '.join(_UNIT_NOISE + _SIGMA_NOISE)}; set it as pipe.scheduler"
            )
        if call.get("strength") is not None:
            raise self._not_from_noise(f"strength={call['strength']:g}")
        self._scheduler = scheduler
        try:
            with ExitStack() as stack:
                handlers = {"set_timesteps": self._set_timesteps, "step": self._step}
                stack.enter_context(intercept(scheduler, handlers))
                if control is not None:
                    stack.enter_context(intercept(control, {"__call__": self._control}))
                yield
        finally:
            for key, value in self._whole.items():
                setattr(scheduler, key, value)
            self._whole, self._start, self._factor = {}, None, None

    def scaled(self, model: nn.Module, arguments: Arguments) -> Arguments:
        """The arguments of a denoiser call with the start of the run scaled."""
        if self._factor is None:
            return arguments
        family, sample = arguments.family, arguments.sample
        shown = sample.shape[family.channels]
        size = family.guided or min(_predicted_channels(model, family) or shown, shown)
        own = sample.narrow(family.channels, 0, size)
        self._scaled = own[0].numel()
        return arguments.with_sample(self._factor * own)

    def check(self, tick: Tick, arguments: Arguments) -> None:
        """Raise ValueError where a run does not start as it should."""
        if not self._rule.starts:
            return
        if tick.index == 0 and self._factor is None:
            raise ValueError(
                "the rule changes the start of a run: call scheduler.set_timesteps within the "
                "guide block"
            )
        if tick.index == 0 and tick.position:
            raise self._not_from_noise(f"a run that starts at timestep {tick.timestep:g}")
        if tick.index == 0 and not arguments.one_time:
            raise self._not_from_noise("frames with times of their own")
        if tick.index and self._factor is not None:
            raise ValueError(
                "the rule changes the start of a run: after each denoiser call expected a call of "
                "scheduler.step, found none"
            )

    def notes(self, tick: Tick) -> dict[str, Any]:
        """What a report says of the first call."""
        if tick.index or self._start is None:
            return {}
        return {"skipped steps": self._start.skipped, "boost": self._start.boost}

    def _control(self, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A ControlNet, which is shown the same noise as the denoiser."""
        name = "sample" if "sample" in kwargs else "hidden_states"
        if self._factor is not None and args:
            args = (self._factor * args[0], *args[1:])
        elif self._factor is not None:
            kwargs = {**kwargs, name: self._factor * kwargs[name]}
        return plain(*args, **kwargs)

    def _set_timesteps(self, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        result, scheduler = plain(*args, **kwargs), self._scheduler
        last = scheduler.config.num_train_timesteps
        times = [time / last for time in scheduler.timesteps.tolist()]
        if scheduler.config.get("invert_sigmas"):
            times = [1 - time for time in times]
        self._start = start = self._rule.start(times)
        self._factor = start.boost
        self._whole = {}
        if start.skipped:
            names = [name for name in ("timesteps", "sigmas") if hasattr(scheduler, name)]
            self._whole = {name: getattr(scheduler, name) for name in names}
            for name, value in self._whole.items():
                setattr(scheduler, name, value[start.skipped :])
            if type(scheduler).__name__ in _SIGMA_NOISE:
                spread = sqrt(1 + float(scheduler.sigmas[0]) ** 2)
                self._factor *= spread / float(scheduler.init_noise_sigma)
        return result

    def _step(self, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._factor is None:
            return plain(*args, **kwargs)
        bound = inspect.signature(plain).bind(*args, **kwargs)
        sample = bound.arguments["sample"]
        if sample[0].numel() != self._scaled:
            raise ValueError(
                f"{self._name} cannot be started from other noise: its denoiser is shown "
                f"{self._scaled} numbers of each sample, and its scheduler {sample[0].numel()}"
            )
        bound.arguments["sample"] = self._factor * sample
        self._factor = None
        return plain(*bound.args, **bound.kwargs)

    def progress_bar(self, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a pipeline's ``progress_bar`` with the number of calls that are left."""
        bound = inspect.signature(plain).bind(*args, **kwargs)
        whole = self._whole.get("timesteps", ())
        if self._start is not None and bound.arguments.get("total") == len(whole):
            bound.arguments["total"] -= self._start.skipped
        return plain(*bound.args, **bound.kwargs)

    def _not_from_noise(self, found: str) -> ValueError:
        return ValueError(
            f"the rule changes the noise that a run starts from: expected a call of {self._name} "
            f"that starts from noise alone, found {found}; use a text-to-image pipeline"
        )


def _predicted_channels(model: nn.Module, family: Family) -> int | None:
    """Channels of the sample as the denoiser is shown it, None where its configuration is silent.

    Those beyond them hold conditions, such as the masked picture of inpainting models.
    """
    config = getattr(model, "config", None)
    channels, patch = getattr(config, "out_channels", None), getattr(config, "patch_size", 1)
    # Pipelines that pack patches into tokens multiply the channels.
    packed = family.channels == -1 and isinstance(patch, int)
    return channels * patch**2 if channels and packed else channels
