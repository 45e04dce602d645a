"""What is guided: a denoiser, its family, its scheduler, and the pipeline around it if any."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from guidance.core.family import Family, family_of, known_families

REFUSED_PIPELINES = {
    "ModularPipeline": "it runs its own guider components: use an ordinary pipeline",
    "PAGMixin": "it adds its own perturbed rows: use the same pipeline without PAG",
    "StableDiffusionInstructPix2PixPipeline": "it guides three rows with two scales",
    "StableDiffusionXLInstructPix2PixPipeline": "it guides three rows with two scales",
}


class Target:
    """A denoiser with what is known about the calls that reach it.

    Raises:
        ValueError: the pipeline or denoiser cannot be guided; the message says what can.
        TypeError: the object is no pipeline and no denoiser, or a bare denoiser has no scheduler.
    """

    def __init__(self, pipe_or_denoiser: Any, scheduler: Any = None) -> None:
        for cls in type(pipe_or_denoiser).__mro__:
            if cls.__name__ in REFUSED_PIPELINES:
                raise ValueError(
                    f"{type(pipe_or_denoiser).__name__} cannot be guided: "
                    f"{REFUSED_PIPELINES[cls.__name__]}"
                )
        self.pipe = None if isinstance(pipe_or_denoiser, nn.Module) else pipe_or_denoiser
        self.denoiser, self.family = _find_denoiser(pipe_or_denoiser)
        self._given_scheduler = scheduler
        self._call: Mapping[str, Any] = {}
        if scheduler is None and getattr(self.pipe, "scheduler", None) is None:
            raise TypeError(
                f"a bare {type(self.denoiser).__name__} needs the scheduler of its loop, found "
                "none; write guide(denoiser, rule, scheduler=scheduler)"
            )

    @property
    def name(self) -> str:
        return type(self.denoiser if self.pipe is None else self.pipe).__name__

    @property
    def scheduler(self) -> Any:
        return self.pipe.scheduler if self._given_scheduler is None else self._given_scheduler  # type: ignore[union-attr]

    @property
    def _running_pipe(self) -> Any:
        """The pipeline during its call; a loop of one's own must not read what it left behind."""
        return self.pipe if self._call else None

    def watch(
        self, plain: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run the pipeline's own call and remember its arguments meanwhile."""
        bound = inspect.signature(plain).bind_partial(*args, **kwargs)
        bound.apply_defaults()
        self.refuse(bound.arguments)
        self._call = bound.arguments
        try:
            return plain(*args, **kwargs)
        finally:
            self._call = {}

    def refuse(self, arguments: Mapping[str, Any]) -> None:
        """Raise ValueError for an argument that the family cannot honour in a guide block."""
        for name, reason in self.family.refused.items():
            if arguments.get(name) is not None:
                raise ValueError(
                    f"{name}={arguments[name]!r} cannot be used in a guide block, because "
                    f"{reason}; leave it out"
                )

    def setting(self, name: str) -> Any:
        """A setting of the running call: the pipeline's property if it has one, or the argument."""
        value = getattr(self._running_pipe, name, None)
        return self._call.get(name) if value is None else value

    def guided_channels(self, tensor: Tensor) -> Tensor:
        """The channels that the denoiser's input and output have in common, which come first."""
        axis, config = self.family.channels, self.denoiser.config
        inputs, outputs = config.get("in_channels"), config.get("out_channels")
        shared = min(count for count in (inputs, outputs, tensor.shape[axis]) if count)
        return tensor.narrow(axis, 0, shared)

    def call_count(self) -> int | None:
        """Calls that the pipeline announced for its run, None where it announces nothing."""
        return self.setting("num_timesteps")

    def has_all_rows(self, sample: Tensor) -> bool:
        """Whether this call holds rows of every branch: as the pipeline says, else twin inputs."""
        says = getattr(self._running_pipe, "do_classifier_free_guidance", None)
        if says is None and self._call.get("guidance_scale") is not None:
            says = self._call["guidance_scale"] > 1
        return self._twins(sample) if says is None else bool(says)

    def check_rows(self, sample: Tensor) -> None:
        """Raise ValueError when the rows of the branches do not show the same latents."""
        if not self._twins(sample):
            raise ValueError(
                f"{self.name} sent {len(sample)} rows that are not {len(self.family.order)} equal "
                f"stacks {self.family.order}: this pipeline's row layout is not supported"
            )

    def _twins(self, sample: Tensor) -> bool:
        first, *others = sample.chunk(len(self.family.order))
        return bool(others) and all(torch.equal(first, other) for other in others)

    def missing_rows(self, branch: object) -> ValueError:
        """Error for a branch whose rows the call does not hold."""
        if getattr(self.denoiser.config, "time_cond_proj_dim", None) is not None:
            cure = (
                "this UNet (time_cond_proj_dim) has its guidance distilled in and never gets such "
                "rows; use a rule that does without them"
            )
        elif self._running_pipe is None:
            cure = f"stack the rows of {self.family.order} in the denoiser's input"
        else:
            cure = (
                f"found guidance_scale={self.setting('guidance_scale')}; call the pipeline with "
                "guidance_scale above 1, which only switches these rows on"
            )
        return ValueError(f"the rule needs {branch!r} rows and {self.name} sent none: {cure}")


def _find_denoiser(pipe_or_denoiser: Any) -> tuple[Any, Family]:
    candidates = (
        [pipe_or_denoiser]
        if isinstance(pipe_or_denoiser, nn.Module)
        else [getattr(pipe_or_denoiser, name, None) for name in ("transformer", "unet")]
    )
    for denoiser in candidates:
        family = family_of(denoiser)
        if family is not None:
            return denoiser, family
    found = [type(item).__name__ for item in candidates if item is not None]
    if any(hasattr(item, "_orig_mod") for item in candidates):
        raise ValueError(
            "the denoiser is wrapped by torch.compile(...), whose class cannot be replaced; "
            "compile it in place instead: denoiser.compile()"
        )
    if not found:
        raise TypeError(
            f"expected a diffusers pipeline or denoiser, found {type(pipe_or_denoiser).__name__}"
        )
    raise ValueError(
        f"{' and '.join(found)} is no denoiser that guide knows: expected one of "
        f"{', '.join(known_families())}; describe yours with register_family(Family(...))"
    )
