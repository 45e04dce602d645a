"""What is guided: denoisers, their families, their scheduler, and the pipeline if there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from guidance.core import families  # noqa: F401  fills the table
from guidance.core.arguments import Arguments
from guidance.core.denoiser import network
from guidance.core.family import Family, family_of, known_families

_FRAME_TIMES = "each of its frames has a time of its own"
_STAGES = "it runs several denoisers, each with a scheduler of its own"

REFUSED = {
    "ModularPipeline": "it runs its own guider components: use an ordinary pipeline",
    "PAGMixin": "it adds its own perturbed rows: use the same pipeline without PAG",
    "StableDiffusionInstructPix2PixPipeline": "it guides three rows with two scales",
    "StableDiffusionXLInstructPix2PixPipeline": "it guides three rows with two scales",
    "CosmosVideoToWorldPipeline": "its branches see their conditioning frames in different noise",
    "StableCascadeCombinedPipeline": "it runs two pipelines: guide its prior_pipe or decoder_pipe",
    "LTX2VideoTransformer3DModel": "it guides video and audio with scales of their own",
    "AnyFlowFARTransformer3DModel": "it keeps a cache with the rows of earlier calls",
    "Cosmos3OmniTransformer": "it guides video, sound and actions on their own",
    "SkyReelsV2DiffusionForcingPipeline": _FRAME_TIMES,
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": _FRAME_TIMES,
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": _FRAME_TIMES,
    "UnCLIPPipeline": _STAGES,
    "UnCLIPImageVariationPipeline": _STAGES,
    "Ideogram4Transformer2DModel": "it takes its unconditional prediction from another network",
}

_DENOISERS = (("transformer", "transformer_2", "unet"), ("prior",), ("decoder",))


class Target:
    """Denoisers with what is known about the calls that reach them.

    Attributes:
        pipe: the pipeline, None for a bare denoiser.
        denoisers: the networks that take turns in a run, with their families.
        call: arguments of the pipeline's running call; empty outside of it.

    Raises:
        ValueError: the pipeline or denoiser cannot be guided; the message says what can.
        TypeError: the object is no pipeline and no denoiser, or a bare denoiser has no scheduler.
    """

    def __init__(self, pipe_or_denoiser: Any, scheduler: Any = None) -> None:
        _refuse_class(pipe_or_denoiser)
        self.pipe = None if isinstance(pipe_or_denoiser, nn.Module) else pipe_or_denoiser
        self.denoisers = _find_denoisers(pipe_or_denoiser)
        self._refuse_guider()
        self.call: Mapping[str, Any] = {}
        self._given_scheduler = scheduler
        if scheduler is None and getattr(self.pipe, "scheduler", None) is None:
            raise TypeError(
                f"a bare {type(pipe_or_denoiser).__name__} needs the scheduler of its loop, found "
                "none; write guide(denoiser, rule, scheduler=scheduler)"
            )

    @property
    def name(self) -> str:
        return type(next(iter(self.denoisers)) if self.pipe is None else self.pipe).__name__

    @property
    def scheduler(self) -> Any:
        return self.pipe.scheduler if self._given_scheduler is None else self._given_scheduler  # type: ignore[union-attr]

    @property
    def _running_pipe(self) -> Any:
        """The pipeline during its call; a loop of one's own must not read what it left behind."""
        return self.pipe if self.call else None

    def _refuse_guider(self) -> None:
        """Raise ValueError for a guider component that would change our predictions."""
        guider = getattr(self.pipe, "guider", None)
        if guider is None:
            return
        name = type(guider).__name__
        plain = name == "ClassifierFreeGuidance" and not guider.guidance_rescale
        perturbs = not type(guider).prepare_models.__qualname__.startswith("BaseGuidance.")
        if perturbs or (not plain and any(family.copies for family in self.denoisers.values())):
            raise ValueError(
                f"{self.name} cannot be guided with its guider {name}: give it "
                "ClassifierFreeGuidance(guidance_scale=...) of diffusers.guiders"
            )

    def check_unchanged(self) -> None:
        """Raise ValueError if the pipeline has been given another denoiser since."""
        if _find_denoisers(self.pipe).keys() != self.denoisers.keys():
            raise ValueError(
                f"{self.name} was given another denoiser within the guide block, which would run "
                "unguided: enter the block after that"
            )

    def refuse(self, family: Family, arguments: Mapping[str, Any]) -> None:
        """Raise ValueError for an argument that the family cannot honour in a guide block."""
        for name, reason in family.refused.items():
            if arguments.get(name):
                raise ValueError(
                    f"{name}={arguments[name]!r} cannot be used in a guide block, because "
                    f"{reason}; leave it out"
                )

    def setting(self, name: str) -> Any:
        """A setting of the running call: the pipeline's property if it has one, or the argument."""
        value: Any = self._running_pipe
        for part in name.split("."):
            value = getattr(value, part, None)
        return self.call.get(name) if value is None else value

    def scale(self, model: nn.Module) -> float | None:
        """Guidance scale ``w`` of the running call; a second denoiser may have one of its own."""
        if self.without_guidance():
            return 1.0
        family = self.denoisers[model]
        value = self.setting(family.scale)
        if model is not next(iter(self.denoisers)):
            value = self.setting(f"{family.scale}_2") or value
        shift = family.offset + bool(self.setting("guider.use_original_formulation"))
        return None if value is None else value + shift

    def prompts(self, images: int) -> tuple[str | int, ...] | None:
        """Prompt or class label of each image of the running call, None where it names none."""
        given = self.call.get("class_labels", self.call.get("prompt"))
        if isinstance(given, str | int):
            given = (given,)
        elif isinstance(given, torch.Tensor):
            given = given.tolist()
        if not given or images % len(given):
            return None
        return tuple(item for item in given for _ in range(images // len(given)))

    def call_count(self) -> int | None:
        """Calls that the pipeline announced for its run, None where it announces nothing."""
        return self.setting("num_timesteps")

    def without_guidance(self) -> bool:
        """Whether the pipeline says that its own guidance is off."""
        return self._guided() is False

    def stacked(self, arguments: Arguments) -> bool:
        """Whether a call holds rows of every branch: as the pipeline says, else twin inputs."""
        family = arguments.family
        if family.separate or len(family.order) == 1:
            return False
        if family.always:
            return True
        says = self._guided()
        if says is None and self.call.get(family.scale) is not None:
            says = self.call[family.scale] + family.offset > 1
        return self._twins(arguments) if says is None else says

    def check_rows(self, arguments: Arguments) -> None:
        """Raise ValueError when the rows of the branches do not show the same latents."""
        if not self._twins(arguments):
            order = arguments.family.order
            raise ValueError(
                f"{self.name} sent {arguments.total} rows that are not {len(order)} equal "
                f"stacks {order}: this pipeline's row layout is not supported"
            )

    def missing_rows(self, family: Family, branch: object) -> ValueError:
        """Error for a branch whose rows the pipeline does not send."""
        denoiser = next(iter(self.denoisers))
        if len(family.order) == 1 or (self.call and self.setting(family.scale) is None):
            cure = "this pipeline never does; use a rule that does without them"
        elif getattr(denoiser.config, "time_cond_proj_dim", None) is not None:
            cure = (
                "this UNet (time_cond_proj_dim) has its guidance distilled in and never gets such "
                "rows; use a rule that does without them"
            )
        elif self._running_pipe is None:
            cure = (
                "call the denoiser once for each branch, cond first, with the same sample"
                if family.separate
                else f"stack the rows of {family.order} in the denoiser's input"
            )
        else:
            cure = (
                f"found {family.scale}={self.setting(family.scale)}; call the pipeline with "
                f"{family.switch}, which only switches these rows on"
            )
        return ValueError(f"the rule needs {branch!r} rows and {self.name} sent none: {cure}")

    def _guided(self) -> bool | None:
        guider = getattr(self._running_pipe, "guider", None)
        if guider is not None:
            return guider.num_conditions > 1
        says = getattr(self._running_pipe, "do_classifier_free_guidance", None)
        return None if says is None else bool(says)

    def _twins(self, arguments: Arguments) -> bool:
        """Whether the branches show the same latents; channels with a condition may differ."""
        family, sample = arguments.family, arguments.sample
        if family.guided:
            sample = sample.narrow(family.channels, 0, family.guided)
        first, *others = sample.chunk(len(family.order))
        return bool(others) and all(torch.equal(first, other) for other in others)


def _refuse_class(item: Any) -> None:
    """Raise ValueError for a pipeline or denoiser that is known not to fit."""
    for cls in type(item).__mro__:
        if cls.__name__ in REFUSED:
            raise ValueError(f"{type(item).__name__} cannot be guided: {REFUSED[cls.__name__]}")


def _find_denoisers(pipe_or_denoiser: Any) -> dict[nn.Module, Family]:
    single = isinstance(pipe_or_denoiser, nn.Module)
    pipe = None if single else pipe_or_denoiser
    groups = (
        [[pipe_or_denoiser]]
        if single
        else [[getattr(pipe, name, None) for name in names] for names in _DENOISERS]
    )
    candidates = next((group for group in groups if any(item is not None for item in group)), [])
    found = {item: family_of(network(item), pipe) for item in candidates if item is not None}
    for item in found:
        _refuse_class(network(item))
    known = {item: family for item, family in found.items() if family is not None}
    if known:
        return known
    names = [type(network(item)).__name__ for item in found]
    if not names:
        name = type(pipe_or_denoiser).__name__
        if hasattr(pipe_or_denoiser, "components"):
            attributes = ", ".join(name for group in _DENOISERS for name in group)
            raise ValueError(f"{name} has no denoiser: none of its parts is called {attributes}")
        raise TypeError(f"expected a diffusers pipeline or denoiser, found {name}")
    raise ValueError(
        f"{' and '.join(names)} is no denoiser that guide knows: expected one of "
        f"{', '.join(known_families())}; describe yours with register_family(Family(...))"
    )
