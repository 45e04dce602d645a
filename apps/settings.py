"""Settings of the programs, checked as they are made; light enough to import for ``--help``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apps.schedulers import check_scheduler

DEFAULT_MODEL = "emblem-unet"
DEFAULT_GUIDANCE = "CFG(5)"
MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """What all programs that draw prompts have in common.

    Attributes:
        prompts: at least one text.
        out: folder for the pictures; created if need be, files of the same name are replaced. None
            is a new folder ``out/NNN``.
        model: name of a shipped model, folder of a diffusers pipeline, or id on the hub.
        negative_prompt: what the pictures should not show.
        steps: denoising steps.
        batch_size: pictures made at once.
        height, width: in pixels; None is the model's own size.
        scheduler: short name, see ``apps.schedulers``; None is the model's own.
        learned: files or folders of words and concepts to put on the model.
        device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:1`` and so on.
        dtype: ``auto``, ``float32``, ``float16`` or ``bfloat16``.
        metadata: write the settings into the pictures.

    Raises:
        TypeError, ValueError: a setting is of the wrong type or out of its range.
    """

    prompts: tuple[str, ...]
    out: Path | None = None
    model: str = DEFAULT_MODEL
    negative_prompt: str | None = None
    steps: int = 25
    batch_size: int = 4
    height: int | None = None
    width: int | None = None
    scheduler: str | None = None
    learned: tuple[Path, ...] = ()
    device: str = "auto"
    dtype: str = "auto"
    metadata: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.prompts, str) or not self.prompts:
            raise ValueError(f"prompts must be one or more texts, found {self.prompts!r}")
        for number, prompt in enumerate(self.prompts, 1):
            if not isinstance(prompt, str):
                raise TypeError(f"prompt {number} must be text, found {type(prompt).__name__}")
            if not prompt.strip():
                raise ValueError(f"prompt {number} must say what to draw, found {prompt!r}")
        for name in ("steps", "batch_size"):
            check_whole(name, getattr(self, name), 1)
        for name in ("height", "width"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 1)
        if self.scheduler is not None:
            check_scheduler(self.scheduler)


@dataclass(frozen=True, kw_only=True)
class SampleSettings(DrawSettings):
    """What to make with ``apps.sample.sample``: of each prompt ``num_images`` pictures.

    Attributes:
        guidance: rule as text, such as ``CFG(6) + Rescale(0.7)``, or ``none``.
        seed: of the first picture of each prompt; picture i has ``seed + i``.
        vary_seed: picture n of all prompts together has ``seed + n``, so that none share noise.
        num_images: pictures per prompt.

    Raises:
        TypeError, ValueError: a setting is of the wrong type or out of its range.
    """

    guidance: str = DEFAULT_GUIDANCE
    seed: int = 0
    vary_seed: bool = False
    num_images: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("num_images", self.num_images, 1)
        pictures = self.num_images * (len(self.prompts) if self.vary_seed else 1)
        check_whole("seed", self.seed, 0, MAX_SEED - pictures + 1)

    @property
    def guided(self) -> bool:
        """Whether a guidance rule is to be used."""
        return is_guided(self.guidance)


def is_guided(rule: str) -> bool:
    """Whether the text of a rule is other than ``none``."""
    return rule.strip().lower() != "none"


def chosen_prompts(given: Sequence[str] | None, file: Path | None) -> tuple[str, ...]:
    """Prompts of the command line, or of a file.

    Raises:
        ValueError: both are given or neither, or the file has no prompts.
    """
    if bool(given) == (file is not None):
        found = "both" if given else "neither"
        raise ValueError(f"expected either PROMPT or --prompts FILE, found {found}")
    return read_prompts(file) if file else tuple(given or ())


def read_prompts(path: Path) -> tuple[str, ...]:
    """Prompts of a text file, one per line, or of a ``.jsonl`` file, in ``text`` of each row.

    Blank lines are skipped.

    Raises:
        ValueError: the file cannot be read, a row has no text, or there is no prompt in it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ValueError(f"cannot read prompts file {str(path)!r}: {reason}") from error
    read = _text_of_row if path.suffix.lower() == ".jsonl" else str.strip
    prompts = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                prompts.append(read(line))
            except ValueError as error:
                raise ValueError(f"line {number} of prompts file {str(path)!r} {error}") from error
    if not prompts:
        raise ValueError(f"prompts file {str(path)!r} is empty: expected one prompt per line")
    return tuple(prompts)


def _text_of_row(line: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from error
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError('has no text: expected a row such as {"text": "a red star"}')
    return text


def check_whole(name: str, value: object, low: int, high: int | None = None) -> None:
    """Raise TypeError or ValueError unless a value is a whole number of a range."""
    expected = f"a whole number from {low} " + ("up" if high is None else f"to {high}")
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be {expected}, found {value!r} ({type(value).__name__})")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{name} must be {expected}, found {value}")
