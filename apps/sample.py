"""Make guided pictures of prompts with any text-to-image pipeline, on disk with their settings."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from apps.generate import Call, Job, Progress, generate
from apps.pictures import COLUMNS, Row, contact_sheet, thumbnail, write_file, write_png
from apps.pipelines import cut_tokens, load_pipeline, model_name
from apps.schedulers import set_scheduler
from apps.settings import SampleSettings
from guidance import Rule, guide, parse_rule

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


def sample(settings: SampleSettings, on_progress: Progress | None = None) -> SampleResult:
    """Make pictures ``NNN-SEED.png``, ``contact-sheet.png`` and ``report.json`` in one folder.

    With ``settings.metadata`` also ``metadata.jsonl`` (file_name, text, seed), which makes it an
    image folder. The contact sheet shows the first prompts, up to ``SHEET_LINES`` lines.

    Raises:
        ValueError, TypeError: a setting that cannot be carried out; nothing is written then.
    """
    rule = parse_rule(settings.guidance) if settings.guided else None
    check_writable(settings.out)
    pipe = load_pipeline(settings.model, device=settings.device, dtype=settings.dtype)
    if settings.scheduler is not None:
        set_scheduler(pipe, settings.scheduler)
    _warn(pipe, settings)
    call = Call(
        steps=settings.steps,
        guided=settings.guided,
        negative_prompt=settings.negative_prompt,
        height=settings.height,
        width=settings.width,
    )
    jobs = [
        Job(prompt, settings.seed + (row * settings.num_images * settings.vary_seed) + number)
        for row, prompt in enumerate(settings.prompts)
        for number in range(settings.num_images)
    ]
    common = _common(pipe, settings, rule)
    rows = _sheet_rows(settings)
    shown = {number for row in rows for number in row}
    digits = max(3, len(str(len(jobs) - 1)))
    files: list[Path] = []
    thumbnails: dict[int, Image.Image] = {}
    with guide(pipe, rule) if rule else nullcontext() as run:
        images = generate(pipe, jobs, call, batch_size=settings.batch_size, on_progress=on_progress)
        for number, (job, image) in enumerate(zip(jobs, images, strict=True)):
            settings.out.mkdir(parents=True, exist_ok=True)
            own = asdict(job) | {"width": image.width, "height": image.height} | common
            path = settings.out / f"{number:0{digits}}-{job.seed}.png"
            write_png(path, image, own if settings.metadata else None)
            files.append(path)
            if number in shown:
                thumbnails[number] = thumbnail(image)
    if settings.metadata:
        write_file(settings.out / "metadata.jsonl", _metadata(files, jobs))
    sheet = settings.out / "contact-sheet.png"
    cells = [Row(jobs[row.start].prompt, [thumbnails[number] for number in row]) for row in rows]
    write_png(sheet, contact_sheet(cells))
    each = settings.num_images
    report = {
        **common,
        "seed": settings.seed,
        "vary_seed": settings.vary_seed,
        "num_images": settings.num_images,
        "batch_size": settings.batch_size,
        "prompts": [
            {"prompt": prompt, "files": [path.name for path in files[start : start + each]]}
            for prompt, start in zip(settings.prompts, range(0, len(files), each), strict=True)
        ],
        "contact_sheet": sheet.name,
        "contact_sheet_pictures": len(thumbnails),
        "run": run.report.to_dict() if run else None,
    }
    report_file = settings.out / "report.json"
    write_file(report_file, json.dumps(report, indent=1, ensure_ascii=False).encode())
    return SampleResult(tuple(files), sheet, report_file, report)


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


def _common(pipe: Any, settings: SampleSettings, rule: Rule | None) -> dict[str, Any]:
    """Settings that hold for every picture of the run."""
    packages = ("diffusteer", "torch", "diffusers", "transformers")
    return {
        "negative_prompt": settings.negative_prompt,
        "steps": settings.steps,
        "scheduler": type(pipe.scheduler).__name__,
        "guidance": repr(rule) if rule else "none",
        "guidance_config": rule.to_config() if rule else None,
        "model": model_name(settings.model),
        "device": pipe.device.type,
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "versions": {package: version(package) for package in packages},
    }


def _warn(pipe: Any, settings: SampleSettings) -> None:
    """Log what will be silently ignored otherwise."""
    if settings.negative_prompt and not settings.guided:
        _log.warning("the negative prompt is not used: it needs guidance, found none")
    for name, text in [
        *((f"prompt {number}", text) for number, text in enumerate(settings.prompts, 1)),
        ("the negative prompt", settings.negative_prompt or ""),
    ]:
        if cut := cut_tokens(pipe, text):
            _log.warning("%s is too long for this model: its last %d tokens are cut", name, cut)
