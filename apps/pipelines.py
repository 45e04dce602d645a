"""Loading any text-to-image pipeline of diffusers, with errors that say what to do."""

from __future__ import annotations

import inspect
import json
import os
import textwrap
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from apps.shipped import shipped, shipped_names

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_pipeline(
    model: str, *, device: str = "auto", dtype: str = "auto", prompts: bool = True
) -> Any:
    """Load a text-to-image pipeline onto a device.

    Args:
        model: folder of a pipeline, name of a shipped model, or id on the hub.
        device: see ``pick_device``.
        dtype: see ``pick_dtype``.
        prompts: refuse a pipeline that does not draw from text.

    Raises:
        ValueError: there is no such model, it cannot be loaded, or it is none of these.
    """
    where = pick_device(device)
    kind = pick_dtype(dtype, where)
    source = find_model(model)
    try:
        pipe = DiffusionPipeline.from_pretrained(source, dtype=kind, **_left_out(source))
    except Exception as error:  # loaders below raise errors of many unrelated types
        cure = (
            "check that its files are complete"
            if Path(source).is_dir()
            else "check the id and the connection, or give a folder"
        )
        reason = textwrap.shorten(str(error), 200, placeholder=" ...") or type(error).__name__
        raise ValueError(f"cannot load model {model!r}; {cure} ({reason})") from error
    needed = {"generator", "num_inference_steps", "prompt" if prompts else "generator"}
    if missing := needed - set(call_parameters(pipe)):
        what = "text-to-image pipeline" if prompts else "pipeline that draws pictures"
        raise ValueError(
            f"model {model!r} is no {what}: {type(pipe).__name__} takes no "
            f"{', '.join(sorted(missing))}"
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(where)


def find_model(model: str) -> str:
    """Folder or hub id that a ``--model`` value stands for.

    Raises:
        ValueError: it is neither a pipeline folder, nor a shipped model, nor like a hub id.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if not _is_pipeline(path):
            raise ValueError(
                f"folder {model!r} is no pipeline: expected model_index.json in it; give a folder "
                "that save_pretrained of a pipeline wrote"
            )
        return str(path)
    if path.is_file():
        raise ValueError(
            f"model {model!r} is a file: expected a pipeline folder; convert it with "
            "from_single_file and save_pretrained of diffusers"
        )
    pipelines = [name for name in shipped_names() if _is_pipeline(shipped(name))]
    if model in pipelines:
        return str(shipped(model))
    owner, _, name = model.partition("/")
    looks_local = model.startswith((".", "~", "/")) or os.sep in name or "\\" in model
    if looks_local or not (owner and name):
        raise ValueError(
            f"model {model!r} not found: expected an existing folder, a shipped model "
            f"({', '.join(pipelines) or 'none in this installation'}), or a hub id owner/name"
        )
    return model


def _is_pipeline(folder: Path) -> bool:
    return (folder / "model_index.json").is_file()


def model_name(model: str) -> str:
    """The name by which pictures remember their model: no path of the machine gets into them."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def pick_device(name: str) -> torch.device:
    """The device of this name; ``auto`` is the first of cuda, mps and cpu that is there.

    Raises:
        ValueError: no such device here.
    """
    usable = ["cpu"]
    if torch.backends.mps.is_available():
        usable.insert(0, "mps")
    count = torch.cuda.device_count()
    if count:
        usable[:0] = ["cuda", *(f"cuda:{index}" for index in range(count))]
    if name == "auto":
        return torch.device(usable[0])
    if name not in usable:
        raise ValueError(f"no device {name!r} here: expected one of auto, {', '.join(usable)}")
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of this name; ``auto`` is bfloat16 on cuda and float32 elsewhere.

    Raises:
        ValueError: unknown name.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise ValueError(f"unknown dtype {name!r}: expected one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def call_parameters(pipe: Any) -> dict[str, Any]:
    """Arguments that the pipeline's call takes, with their defaults."""
    parameters = inspect.signature(pipe.__call__).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


def cut_tokens(pipe: Any, text: str) -> int:
    """How many tokens of a text even the tokenizer with the most room in a pipeline cuts off."""
    tokenizers = [
        part
        for name, part in pipe.components.items()
        if name.startswith("tokenizer") and hasattr(part, "model_max_length")
    ]
    over = [len(part(text, verbose=False).input_ids) - part.model_max_length for part in tokenizers]
    return max(0, min(over, default=0))


def _left_out(source: str) -> dict[str, None]:
    """Parts that a saved pipeline does without, which some pipelines want to hear again."""
    index = Path(source, "model_index.json")
    if not index.is_file():
        return {}
    parts = json.loads(index.read_text(encoding="utf-8"))
    return {name: None for name, origin in parts.items() if origin == [None, None]}
