"""Pictures on disk: settings inside the PNG, one contact sheet, files that are whole or absent."""

from __future__ import annotations

import io
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

CELL = 256
COLUMNS = 8
_SAMPLERS = {
    "DDIMScheduler": "DDIM",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "EulerDiscreteScheduler": "Euler",
    "FlowMatchEulerDiscreteScheduler": "Euler",
    "FlowMatchHeunDiscreteScheduler": "Heun",
    "HeunDiscreteScheduler": "Heun",
    "KDPM2AncestralDiscreteScheduler": "DPM2 a",
    "KDPM2DiscreteScheduler": "DPM2",
    "LMSDiscreteScheduler": "LMS",
    "PNDMScheduler": "PLMS",
    "UniPCMultistepScheduler": "UniPC",
}
"""What AUTOMATIC1111's web UI calls schedulers of diffusers; one class is several of its DPM++."""
_FONT_SIZE = 16
_GAP = 8


def write_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it: it is never seen half written."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_png(path: Path, image: Image.Image, settings: Mapping[str, Any] | None = None) -> None:
    """Write a picture with its settings as A1111 ``parameters`` text and ``diffusteer`` JSON.

    Args:
        settings: as for ``parameters_text``; None writes no metadata.
    """
    info = PngInfo()
    if settings is not None:
        info.add_text("parameters", parameters_text(settings))
        info.add_text("diffusteer", json.dumps(settings, ensure_ascii=False))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    write_file(path, buffer.getvalue())


def parameters_text(settings: Mapping[str, Any]) -> str:
    """Settings in the text form that AUTOMATIC1111's web UI writes and many programs read.

    Args:
        settings: with prompt, negative_prompt, steps, scheduler, guidance, guidance_config, seed,
            width, height, model and versions.

    Samplers have the names of that program where it has the same ones, else those of diffusers.

    The form has no quotes around prompts: spaces and empty lines around them get lost, and in them
    a space goes before the colon of "Negative prompt:", and of "Steps:" at the start of a line.
    """
    lines = [_prompt(settings["prompt"])]
    if settings["negative_prompt"]:
        lines.append(f"Negative prompt: {_prompt(settings['negative_prompt'])}")
    fields = {
        "Steps": settings["steps"],
        "Sampler": _SAMPLERS.get(settings["scheduler"], settings["scheduler"]),
        "CFG scale": _cfg_scale(settings["guidance_config"]),
        "Seed": settings["seed"],
        "Size": f"{settings['width']}x{settings['height']}",
        "Model": settings["model"],
        "Guidance": settings["guidance"],
        "Version": f"diffusteer {settings['versions']['diffusteer']}",
    }
    pairs = (f"{key}: {_quoted(value)}" for key, value in fields.items() if value is not None)
    return "\n".join([*lines, ", ".join(pairs)])


def _prompt(text: str) -> str:
    return re.sub(r"(Negative prompt|^Steps):", r"\1 :", text.strip(), flags=re.MULTILINE)


def _cfg_scale(config: Mapping[str, Any] | None) -> float | None:
    """The one number that other programs understand, where it says everything."""
    if config is None:
        return 1
    scale = config.get("scale")
    plain = config["rule"] == "CFG" and "between" not in config and isinstance(scale, float | int)
    return scale if plain else None


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:\n"') else text


def thumbnail(image: Image.Image) -> Image.Image:
    """The picture at about ``CELL`` pixels: small ones with sharp pixels, large ones shrunk."""
    longest = max(image.size)
    if longest > CELL:
        return image.resize(
            [max(1, round(side * CELL / longest)) for side in image.size], Image.Resampling.LANCZOS
        )
    factor = CELL // longest
    return image.resize([side * factor for side in image.size], Image.Resampling.NEAREST)


@dataclass(frozen=True)
class Row:
    """Pictures of a contact sheet under one label."""

    label: str
    images: Sequence[Image.Image]


def contact_sheet(rows: Sequence[Row]) -> Image.Image:
    """All pictures on one white page, each row under its label and broken after ``COLUMNS``."""
    cells = [image for row in rows for image in row.images]
    cell_width, cell_height = (max(image.size[axis] for image in cells) for axis in (0, 1))
    columns = min(COLUMNS, max(len(row.images) for row in rows))
    width = _GAP + columns * (cell_width + _GAP)
    font = ImageFont.load_default(_FONT_SIZE)
    letters = max(1, int((width - 2 * _GAP) / font.getlength("n")))
    labels = [textwrap.wrap(row.label, letters, max_lines=3, placeholder=" …") for row in rows]
    line = _FONT_SIZE + _GAP // 2
    heights = [
        len(label) * line + -(-len(row.images) // columns) * (cell_height + _GAP) + _GAP
        for row, label in zip(rows, labels, strict=True)
    ]
    sheet = Image.new("RGB", (width, sum(heights) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for row, label, height in zip(rows, labels, heights, strict=True):
        for number, text in enumerate(label):
            draw.text((_GAP, top + number * line), text, fill="black", font=font)
        start = top + len(label) * line
        for number, image in enumerate(row.images):
            x, y = number % columns, number // columns
            place = (_GAP + x * (cell_width + _GAP), start + y * (cell_height + _GAP))
            sheet.paste(image, place)
        top += height
    return sheet
