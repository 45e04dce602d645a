"""Make guided pictures of prompts with any text-to-image pipeline, on disk with their settings."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image

from apps.evaluate.pictures.processes import Processes
from apps.generate import Call, Job, generate
from apps.pictures import COLUMNS, Row, contact_sheet, thumbnail, write_file, write_png
from apps.pipelines import cut_tokens, load_pipeline, model_name
from apps.rules import read_rule, rule_settings, without_folders
from apps.schedulers import set_scheduler
from apps.settings import DrawSettings, SampleSettings
from guidance import guide
from personalize import load
from personalize.core.loading import loaded

OnProgress = Callable[[float, int], None]
"""Called with the number of pictures done so far, fractional within a batch, and of all."""

SHEET_LINES = 64
"""Most lines of pictures on a contact sheet."""

_log = logging.getLogger("diffusteer")


@dataclass(frozen=True)
class SampleResult:
    """What ``sample`` wrote; ``report`` is the content of ``report_file``."""

    pictures: tuple[Path, ...]
    sheet: Path
    report_file: Path
    report: dict[str, Any]


def sample(settings: SampleSettings, on_progress: OnProgress | None = None) -> SampleResult:
    """Make pictures ``NNN-SEED.png``, ``contact-sheet.png`` and ``report.json`` in one folder.

    With ``settings.metadata`` also ``metadata.jsonl`` (file_name, text, seed), which makes it an
    image folder. The contact sheet shows the first prompts, up to ``SHEET_LINES`` lines. Several
    processes under ``accelerate launch`` share the batches, and write what one would.

    Raises:
        ValueError, TypeError: a setting that cannot be carried out; nothing is written then.
    """
    rule = read_rule(settings.guidance) if settings.guided else None
    processes = Processes(settings.device)
    out = settings.out or processes.once(new_folder)
    check_writable(out)
    if settings.negative_prompt and not settings.guided:
        _log.warning("the negative prompt is not used: it needs guidance, found none")
    pipe = open_pipeline(settings, str(processes.device))
    jobs = [
        Job(prompt, settings.seed + (row * settings.num_images * settings.vary_seed) + number)
        for row, prompt in enumerate(settings.prompts)
        for number in range(settings.num_images)
    ]
    digits = max(3, len(str(len(jobs) - 1)))
    files = [out / f"{number:0{digits}}-{job.seed}.png" for number, job in enumerate(jobs)]
    common = common_settings(pipe, settings) | rule_settings(rule)
    report = on_progress or (lambda done, total: None)

    def draw() -> dict[str, Any] | None:
        """Every picture of this process's batches; returns the report of its run."""
        turns = (number // settings.batch_size % processes.count for number in range(len(jobs)))
        own = [number for number, turn in enumerate(turns) if turn == processes.rank]
        images = generate(
            pipe,
            [jobs[number] for number in own],
            call_of(settings, settings.guided),
            batch_size=settings.batch_size,
            on_progress=lambda done: report(min(done * processes.count, len(jobs)), len(jobs)),
        )
        with guide(pipe, rule) if rule else nullcontext() as run:
            for number, image in zip(own, images, strict=True):
                out.mkdir(parents=True, exist_ok=True)
                size = {"width": image.width, "height": image.height}
                metadata = asdict(jobs[number]) | size | common
                write_png(files[number], image, metadata if settings.metadata else None)
        return run.report.to_dict() if run else None

    runs = [run for run in processes.each(draw) if run]
    sheet, report_file = out / "contact-sheet.png", out / "report.json"
    rows = _sheet_rows(settings)
    each = settings.num_images
    content = {
        **common,
        "seed": settings.seed,
        "vary_seed": settings.vary_seed,
        "num_images": each,
        "batch_size": settings.batch_size,
        "prompts": [
            {"prompt": prompt, "files": [path.name for path in files[start : start + each]]}
            for prompt, start in zip(settings.prompts, range(0, len(files), each), strict=True)
        ],
        "contact_sheet": sheet.name,
        "contact_sheet_pictures": sum(map(len, rows)),
        "run": _merged(runs) if runs else None,
    }
    if processes.first:
        if settings.metadata:
            write_file(out / "metadata.jsonl", _metadata(files, jobs))
        cells = [Row(jobs[row[0]].prompt, [_thumbnail(files[n]) for n in row]) for row in rows]
        write_png(sheet, contact_sheet(cells))
        text = json.dumps(content, indent=1, ensure_ascii=False)
        write_file(report_file, without_folders(text).encode())
    return SampleResult(tuple(files), sheet, report_file, content)


def new_folder() -> Path:
    """The first of ``out/001``, ``out/002`` and so on that is not there."""
    return next(path for path in (Path("out", f"{n:03}") for n in count(1)) if not path.exists())


def open_pipeline(settings: DrawSettings, device: str) -> Any:
    """The pipeline, scheduler and words that settings name, on a device; what is cut is logged.

    Raises:
        ValueError: there is no such model, the scheduler cannot drive it, or something learned is
            not for it.
    """
    pipe = load_pipeline(settings.model, device=device, dtype=settings.dtype)
    if settings.scheduler is not None:
        set_scheduler(pipe, settings.scheduler)
    for path in settings.learned:
        load(pipe, path)
    for name, text in [
        *((f"prompt {number}", text) for number, text in enumerate(settings.prompts, 1)),
        ("the negative prompt", settings.negative_prompt or ""),
    ]:
        if cut := cut_tokens(pipe, text):
            _log.warning("%s is too long for this model: its last %d tokens are cut", name, cut)
    return pipe


def call_of(settings: DrawSettings, guided: bool) -> Call:
    """How the pipeline is called."""
    return Call(
        steps=settings.steps,
        guided=guided,
        negative_prompt=settings.negative_prompt,
        height=settings.height,
        width=settings.width,
    )


def common_settings(pipe: Any, settings: DrawSettings) -> dict[str, Any]:
    """Settings that hold for every picture of a program, as metadata has them."""
    packages = ("diffusteer", "torch", "diffusers", "transformers")
    return {
        "negative_prompt": settings.negative_prompt,
        "steps": settings.steps,
        "scheduler": type(pipe.scheduler).__name__,
        "model": model_name(settings.model),
        **({"learned": [*loaded(pipe)]} if settings.learned else {}),
        "device": pipe.device.type,
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "versions": {package: version(package) for package in packages},
    }


def _merged(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The report of one process that had made the batches of several, dealt out in turn."""
    steps = [
        step | {"run": step["run"] * len(runs) + rank}
        for rank, run in enumerate(runs)
        for step in run["steps"]
    ]
    nfe = sum(run["nfe"] for run in runs)
    return runs[0] | {"nfe": nfe, "steps": sorted(steps, key=lambda step: step["run"])}


def _thumbnail(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return thumbnail(image)


def _sheet_rows(settings: SampleSettings) -> list[range]:
    """Numbers of the pictures in each row of the contact sheet."""
    each = settings.num_images
    length = min(each, SHEET_LINES * COLUMNS)
    starts = range(0, len(settings.prompts) * each, each)
    return [
        range(start, start + length) for start in starts[: SHEET_LINES // -(-length // COLUMNS)]
    ]


def _metadata(files: Sequence[Path], jobs: Sequence[Job]) -> bytes:
    """Rows of an image folder, as JSON lines."""
    rows = (
        {"file_name": path.name, "text": job.prompt, "seed": job.seed}
        for path, job in zip(files, jobs, strict=True)
    )
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def check_writable(folder: Path) -> None:
    """Raise ValueError unless files can be made in a folder, which need not exist yet."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ValueError(
            f"cannot write to out folder {str(folder)!r}: {error.strerror}; choose another one"
        ) from error
