"""One run: its phases, its checkpoints, and what it tells."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from personalize.core import checkpoint, logbook
from personalize.core.artifact import Artifact
from personalize.core.backbone import Backbone
from personalize.core.checkpoint import State
from personalize.core.identity import base_hash, check_same, identity, model_spec, tool_version
from personalize.core.images import Item
from personalize.core.latents import Latents
from personalize.core.logbook import Progress, Speed
from personalize.core.method import Context, Method, OwnStep
from personalize.core.optimizer import Average, Rate
from personalize.core.processes import Processes
from personalize.core.samples import Samples, seed_of
from personalize.core.settings import DataSettings, TrainSettings
from personalize.core.steps import (
    Feed,
    GradientSteps,
    OwnSteps,
    Steps,
    autocast,
    complaint,
    under,
)
from personalize.core.stopping import StopSignals, leave
from personalize.core.targets import Noising
from personalize.core.validation import draw, keep_pictures, validation_loss

OnProgress = Callable[[Progress], None]


class Run:
    """One run, from the first photo to the file."""

    def __init__(
        self,
        backbone: Backbone,
        base: str,
        owned: bool,
        method: Method,
        items: tuple[Item, ...],
        folder: Path,
        settings: TrainSettings,
        data: DataSettings,
        accelerator: Accelerator,
        processes: Processes,
        precision: str,
        stop: StopSignals,
        on_progress: OnProgress,
    ) -> None:
        self.backbone, self.base, self.owned = backbone, base, owned
        self.method, self.items = method, items
        self.folder, self.settings, self.data = folder, settings, data
        self.accelerator, self.processes = accelerator, processes
        self.precision, self.stop, self.on_progress = precision, stop, on_progress
        self.resolution = _resolution(data, backbone)
        self.weights = base_hash(backbone.pipe)
        self.identity = identity(
            method,
            settings,
            data,
            items,
            base=self.weights,
            processes=self.processes.count,
            device=self.processes.device.type,
            precision=precision,
            resolution=self.resolution,
        )
        self.rate = Rate(settings, self.processes.count)
        self.speed = Speed(0, settings.max_train_steps)
        self.step = 0

    def whole(self, resumed: tuple[Path, State] | None) -> Artifact:
        """Encode, start the method, resume, train, write."""
        if resumed:
            check_same(self.identity, resumed[1].record["identity"], str(resumed[0]))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._tell("encoding")
        self.samples = self._encode()
        self.training = self.method.start(self._context())
        try:
            self._prepare()
            if resumed:
                self._restore(resumed[1])
            if self.processes.first:
                logbook.rewind(self.folder, self.step)
            if self.settings.report_to:
                self.accelerator.init_trackers("diffusteer", self.settings.model_dump(mode="json"))
            self._loop()
            artifact = self._artifact()
        finally:
            self.training.stop()
        if self.settings.report_to:
            self.accelerator.end_training()
        if self.processes.first:
            artifact.save(self.folder)
        self.processes.wait()
        return artifact

    def _encode(self) -> Samples:
        latents = Latents(self.backbone, self.items, self.resolution, self.settings.masked_loss)
        noising = Noising.of(self.backbone.pipe.scheduler)
        device = self.processes.device
        samples = Samples(self.items, latents, noising, self.settings, self.data, device)
        cache = self.folder / "cache" / "latents.safetensors" if self.processes.first else None
        latents.keep(samples.few_views(), cache, self.weights, self.stop.leave_if_asked)
        return samples

    def _context(self) -> Context:
        seed = seed_of(self.settings.seed, "start")
        return Context(
            backbone=self.backbone,
            items=self.items,
            settings=self.settings,
            data=self.data,
            device=self.processes.device,
            dtype=self.backbone.denoiser.dtype,
            generator=torch.Generator().manual_seed(seed),
            mean=self.processes.mean,
            owned=self.owned,
        )

    def _prepare(self) -> None:
        training, feed = self.training, Feed(self.samples, self.settings, self.processes)
        checkpoint.check_finite(training.parameters)
        self.feed = feed
        self.steps: Steps
        if isinstance(training, OwnStep):
            self.steps = OwnSteps(training, feed, self.rate, self.processes, self.precision)
        else:
            self.steps = GradientSteps(
                training, feed, self.rate, self.settings, self.processes, self.precision
            )
        self.average = Average(training.parameters, self.settings.ema_decay)

    def _loop(self) -> None:
        settings = self.settings
        self.speed = Speed(self.step, settings.max_train_steps)
        while self.step < settings.max_train_steps:
            logged = self.steps.make(self.step, self._leave_if_asked)
            logged |= self.training.after_step(self.step + 1)
            self._check_parameters()
            self.step += 1
            self.average.step()
            self._log(logged)
            self._tell("training", logged["loss"])
            last = self.step == settings.max_train_steps
            if last or self.step % settings.checkpointing_steps == 0:
                self._save()
            self._leave_if_asked()
            if last or self.step % settings.validation_steps == 0:
                self._validate()
                self._leave_if_asked()

    def _check_parameters(self) -> None:
        for name, parameter in self.training.parameters.items():
            if not bool(parameter.isfinite().all()):
                files = self.feed.files(self.step)
                raise FloatingPointError(
                    complaint(f"parameter {name} is not finite", self.step, files)
                )

    def _leave_if_asked(self) -> None:
        """Save and leave, all processes at once, if a signal has come to one of them."""
        (asked,) = self.processes.largest(self.stop.received)
        if asked:
            self._save()
            leave(int(asked))

    # Checkpoints and the file

    def _save(self) -> None:
        self._tell("saving")
        parts: dict[str, Mapping[str, Tensor]] = {
            "parameter": self.training.parameters,
            "average": self.average.tensors(),
            "method": self.training.state(),
            "steps": self.steps.tensors(),
        }
        tensors = {
            f"{part}/{name}": t for part, named in parts.items() for name, t in named.items()
        }
        record = {"identity": self.identity, "steps": self.steps.record()}
        artifact = self._artifact()
        if self.processes.first:
            checkpoint.save(
                self.folder,
                State(self.step, self.steps.position, tensors, record),
                self.settings.checkpoints_total_limit,
                artifact.save,
            )
        self.processes.wait()

    def _restore(self, state: State) -> None:
        self.step = state.step
        with torch.no_grad():
            for name, tensor in under("parameter", state.tensors).items():
                self.training.parameters[name].copy_(tensor)
        self.average.restore(under("average", state.tensors), state.step)
        self.training.restore(under("method", state.tensors))
        steps = under("steps", state.tensors)
        self.steps.restore(state.position, steps, state.record["steps"])

    def _artifact(self) -> Artifact:
        with self.average.in_place():
            artifact = self.training.artifact()
            tensors = {name: tensor.detach().clone() for name, tensor in artifact.tensors.items()}
        ours = {
            "diffusteer.version": tool_version(),
            "diffusteer.method": repr(self.method),
            "diffusteer.train": self.settings.model_dump_json(
                exclude_defaults=True, exclude={"resume_from_checkpoint"}
            ),
            "diffusteer.data": self.data.model_dump_json(exclude_defaults=True),
            "diffusteer.seed": str(self.settings.seed),
            "diffusteer.steps": str(self.step),
            "diffusteer.base_model": self.base,
            "diffusteer.base_hash": self.weights,
        }
        title = artifact.metadata.get("token", artifact.kind)
        spec = model_spec(self.backbone.pipe, artifact.kind, title, self.resolution)
        return replace(artifact, tensors=tensors, metadata=spec | ours | dict(artifact.metadata))

    # What is told

    def _validate(self) -> None:
        settings, artifact = self.settings, self._artifact()
        if self.processes.first and (words := artifact.metadata.get("nearest_words")):
            line = {"step": self.step, "nearest_words": json.loads(words)}
            logbook.append(self.folder, line)
        if settings.validation_samples:
            self._tell("validating")
            precise = autocast(self.processes.device, self.precision)
            with self.average.in_place(), precise:
                loss = validation_loss(self.training, self.samples, settings.validation_samples)
            self._log({"validation_loss": loss})
        if settings.validation_prompt is not None:
            self._tell("validating")
            if self.processes.first:
                self._draw(artifact, settings.validation_prompt)
            self.processes.wait()

    def _draw(self, artifact: Artifact, prompt: str) -> None:
        pictures = draw(
            self.backbone.pipe,
            self.training,
            artifact,
            prompt,
            count=self.settings.num_validation_images,
            seed=self.settings.seed,
            resolution=self.resolution,
            stopped=lambda: bool(self.stop.received),
        )
        keep_pictures(self.folder / "validation", self.step, pictures, self.accelerator.trackers)

    def _log(self, logged: Mapping[str, float]) -> None:
        if self.processes.first:
            logbook.append(self.folder, {"step": self.step} | dict(logged))
        if self.settings.report_to:
            self.accelerator.log(dict(logged), step=self.step)

    def _tell(self, phase: str, loss: float = math.nan) -> None:
        if self.processes.first:
            self.on_progress(
                Progress(
                    step=self.step,
                    steps=self.settings.max_train_steps,
                    loss=loss,
                    rate=self.rate(max(0, self.step - 1)),
                    seconds_left=self.speed.seconds_left(self.step),
                    memory=logbook.memory(self.processes.device),
                    phase=phase,
                )
            )


def _resolution(data: DataSettings, backbone: Backbone) -> int:
    """Side in pixels of the squares to train on."""
    side, grain = data.resolution or backbone.resolution, backbone.grain
    if side % grain:
        below = side // grain * grain
        raise ValueError(
            f"resolution must be a multiple of {grain} for {type(backbone.pipe).__name__}, found "
            f"{side}; choose {below or grain} or {below + grain}"
        )
    return side
