"""The parts of the benchmark of personalization, each of which makes rows about one model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from apps.bench.models import Subject
from apps.bench.parts import TRAINED
from apps.bench.pipelines import concept, photos, pipeline, side, twin
from apps.bench.plain_inversion import PlainInversion
from apps.bench.results import Row
from apps.bench.settings import PersonalizeSettings
from apps.bench.timing import CLOCKS, Paired, paired
from apps.bench.training_memory import CASES, PRECISIONS, REFERENCE, TOKEN, cost
from apps.pipelines import pick_device, pick_dtype
from personalize import DataSettings, TextualInversion, TrainSettings, load, train
from personalize.core.images import find_items
from personalize.core.logbook import Progress
from personalize.core.templates import TEMPLATES

OnStep = Callable[[], None]


def memory(model: str, settings: PersonalizeSettings, on_step: OnStep) -> Iterator[Row]:
    """Peak memory and time of a step of each method against those of textual inversion.

    ZOODiP's paper (arXiv 2503.14868, table 1) has 2.37 GB against 6.75 GB of textual inversion,
    0.35 of it, for Stable Diffusion 1.5 on a GPU; its factor of 8.2 is that of DreamBooth's 19.4.
    """
    steps, precision = _steps(settings, 3), PRECISIONS[_dtype(settings)]
    with TemporaryDirectory() as folder:
        base, pictures, pixels = _saved(model, settings, Path(folder))
        costs = {}
        for case in CASES:
            costs[case] = cost(case, base, pictures, pixels, precision, steps, settings.clock)
            on_step()
    reference = costs.pop(REFERENCE)
    for case, found in costs.items():
        against = f"{case} against {REFERENCE}, {pixels} px"
        for what, unit, ours, other in (
            ("peak of a step", "bytes", found.step, reference.step),
            ("peak of a run", "bytes", found.run, reference.run),
            ("time", _unit("step", settings), found.seconds, reference.seconds),
        ):
            yield Row("memory", model, f"{what}, {against}", unit, ours, other, ours / other)


def throughput(model: str, settings: PersonalizeSettings, on_step: OnStep) -> Iterator[Row]:
    """Textual inversion by the trainer against a plain loop that caches nothing."""
    pipe = pipeline(model, settings)
    pixels = side(pipe, settings)
    with TemporaryDirectory() as folder:
        pictures = photos(Path(folder, "photos"), pixels)
        turns = _Turns(_plain_steps(pipe, pictures, pixels), on_step, settings.clock)
        train(
            pipe,
            TextualInversion(TOKEN),
            pictures,
            Path(folder, "out"),
            TrainSettings(
                max_train_steps=settings.pairs + 1,
                gradient_accumulation_steps=1,
                mixed_precision=PRECISIONS[_dtype(settings)],  # type: ignore[arg-type]
            ),
            DataSettings(resolution=pixels),
            turns,
        )
    case = f"textual inversion by the trainer against a plain loop, {pixels} px"
    yield Row.of_times("throughput", model, case, turns.times, 1 / 1.5, _unit("step", settings))


def layers(model: str, settings: PersonalizeSettings, on_step: OnStep) -> Iterator[Row]:
    """Drawing with a concept of Perfusion on the UNet against drawing without."""
    pipe = pipeline(model, settings)
    edited = twin(pipe)
    load(edited, concept(edited, TOKEN))
    cond, uncond = edited.encode_prompt(f"a {TOKEN} on a hill", edited.device, 1, True)
    pixels = side(pipe, settings)
    call = {
        "prompt_embeds": cond,
        "negative_prompt_embeds": uncond,
        "height": pixels,
        "width": pixels,
        "num_inference_steps": _steps(settings, 25 if model == TRAINED else 1),
        "output_type": "latent",
    }
    made = Subject(pipe, pipe.unet, call, "guidance_scale")
    times = paired(
        partial(made.sample, 5.0, edited),
        partial(made.sample, 5.0),
        settings.pairs,
        on_step,
        settings.clock,
    )
    case = f"with a concept of Perfusion against without, {made.steps} steps, {pixels} px"
    bar = None if model == TRAINED else 1.03
    yield Row.of_times("layers", model, case, times, bar, _unit("sample", settings))


class _Turns:
    """Steps of another loop between those of the trainer, in the order of ``paired``."""

    def __init__(self, other: Callable[[], object], on_pair: OnStep, clock: str) -> None:
        self._other, self._on_pair, self._now = other, on_pair, CLOCKS[clock]
        self._seconds: tuple[list[float], list[float]] = [], []
        self._since = self._now()

    def __call__(self, progress: Progress) -> None:
        if progress.phase != "training":
            return
        ours, other = self._seconds
        ours.append(self._now() - self._since)
        while len(ours) % 2 and len(other) < min(len(ours) + 1, progress.steps):
            start = self._now()
            self._other()
            other.append(self._now() - start)
        self._on_pair()
        self._since = self._now()

    @property
    def times(self) -> Paired:
        ours, other = self._seconds
        return Paired.of(ours[1:], other[1:])


def _plain_steps(pipe: Any, pictures: Path, pixels: int) -> Callable[[], None]:
    """Steps of a plain loop, each with a picture and a template by chance."""
    draws = torch.Generator().manual_seed(0)
    row = torch.randn(pipe.text_encoder.config.hidden_size, generator=draws)
    plain = PlainInversion(pipe, TOKEN, row)
    items = find_items(pictures, TEMPLATES["object"], False)
    loaded = [item.load(pixels, (0.5, 0.5), False).pixels for item in items]

    def step() -> None:
        number = int(torch.randint(len(items), (), generator=draws))
        prompts = items[number].prompts
        prompt = prompts[int(torch.randint(len(prompts), (), generator=draws))]
        plain.step(loaded[number][None], [prompt.replace("{}", TOKEN)], draws)

    return step


def _saved(model: str, settings: PersonalizeSettings, folder: Path) -> tuple[Path, Path, int]:
    """A model and photos in a folder, and the side of the photos."""
    pipe = pipeline(model, settings)
    pipe.save_pretrained(folder / "model")
    pixels = side(pipe, settings)
    return folder / "model", photos(folder / "photos", pixels), pixels


def _dtype(settings: PersonalizeSettings) -> torch.dtype:
    return pick_dtype(settings.dtype, pick_device(settings.device))


def _steps(settings: PersonalizeSettings, on_cpu: int) -> int:
    return settings.steps or (on_cpu if pick_device(settings.device).type == "cpu" else 10)


def _unit(of: str, settings: PersonalizeSettings) -> str:
    return f"s per {of}" if settings.clock == "wall" else f"{settings.clock} s per {of}"
