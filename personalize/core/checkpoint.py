"""Checkpoints that are whole or absent.

A checkpoint is written into a hidden folder, brought to the disk file by file, and renamed; of the
older ones those over the limit go only after that. Its last file, the marker, is written when all
others are on the disk, and its manifest names them with their sizes and hashes. Whenever the
process dies, the newest folder ``checkpoint-N`` is the old state or the new one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_log = logging.getLogger("diffusteer")
_NAME = re.compile(r"checkpoint-(\d+)(?:\.(\d+))?")
_TENSORS, _RECORD = "state.safetensors", "state.json"
_MANIFEST, _MARKER = "manifest.json", "complete"


@dataclass(frozen=True)
class State:
    """What a run continues from.

    Attributes:
        step: optimizer steps done.
        position: samples of the next step whose gradients are in ``tensors`` already.
        tensors: parameters, optimizer, averages, gradients and what the method keeps.
        record: the rest, as JSON.
    """

    step: int
    position: int
    tensors: Mapping[str, Tensor]
    record: Mapping[str, Any]


def save(
    folder: Path,
    state: State,
    limit: int | None = None,
    extra: Callable[[Path], object] = lambda _: None,
) -> Path:
    """Write a checkpoint, then remove the oldest ones over the limit.

    Args:
        folder: of the run.
        state: what to write; where a checkpoint of its step and position is, nothing is done.
        limit: checkpoints to keep, None for all.
        extra: writes more files into the folder that it is given.

    Raises:
        FloatingPointError: a tensor is not finite; nothing is written.
        OSError: the disk does not take it; the older checkpoints are untouched.
    """
    name = f"checkpoint-{state.step}" + (f".{state.position}" if state.position else "")
    final, hidden = folder / name, folder / f".{name}.tmp"
    if final.exists() and _is_whole(final):
        return final
    check_finite(state.tensors)
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    if final.exists():  # a copy that broke off
        _remove(final)
    try:
        hidden.mkdir()
        extra(hidden)
        write_tensors(hidden / _TENSORS, state.tensors)
        write_text(hidden / _RECORD, json.dumps(dict(state.record), indent=1))
        manifest = {}
        for path in sorted(hidden.iterdir()):
            _sync(path)  # what ``extra`` wrote
            manifest[path.name] = _seal(path)
        write_text(hidden / _MANIFEST, json.dumps(manifest, indent=1))
        write_text(hidden / _MARKER, "")
        hidden.rename(final)
        _sync(folder)
    except OSError:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    if limit is not None:
        for old in checkpoints(folder)[:-limit]:
            _remove(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, the oldest first, by number."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=number)


def number(path: Path) -> tuple[int, int]:
    """Step and position of a checkpoint, from its name."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{str(path)!r} is no checkpoint: expected a name such as checkpoint-500")
    return int(match[1]), int(match[2] or 0)


def latest(folder: Path) -> tuple[Path, State] | None:
    """The newest checkpoint of a run that is whole, and what it holds; None if there is none."""
    for path in reversed(checkpoints(folder)):
        try:
            return path, read(path)
        except ValueError as error:
            _log.warning("%s; trying an older one", error)
    return None


def read(path: Path) -> State:
    """What a checkpoint holds.

    Raises:
        ValueError: there is none, or it is not what was written.
    """
    step, position = number(path)
    if not (path / _MARKER).is_file():
        what = "was not written to its end" if path.is_dir() else "does not exist"
        raise ValueError(f"checkpoint {str(path)!r} {what}; resume from another one")
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        for name, sealed in manifest.items():
            if _seal(path / name) != sealed:
                raise ValueError(f"{name} is not what was written")
        record = json.loads((path / _RECORD).read_text(encoding="utf-8"))
        with safe_open(path / _TENSORS, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError, AttributeError) as error:
        raise ValueError(
            f"checkpoint {str(path)!r} is damaged ({error}); resume from another one"
        ) from error
    return State(step, position, tensors, record)


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise FloatingPointError, with its name, if a tensor holds nan or inf."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise FloatingPointError(f"{name} holds numbers that are not finite; it is not written")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file that is finite, and whole or absent."""
    check_finite(tensors)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _whole(path, lambda temporary: save_file(plain, temporary, metadata))


def write_text(path: Path, text: str) -> None:
    """Write a text file that is whole or absent."""
    _whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _seal(path: Path) -> dict[str, Any]:
    """Size and hash of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def _is_whole(path: Path) -> bool:
    try:
        read(path)
    except ValueError:
        return False
    return True


def _remove(path: Path) -> None:
    """Remove a checkpoint such that no half of it looks like one."""
    hidden = path.with_name(f".{path.name}.old")
    path.rename(hidden)
    _sync(path.parent)
    shutil.rmtree(hidden)


def _sweep(folder: Path) -> None:
    """Remove what died processes have left."""
    for pattern in (".checkpoint-*.tmp", ".checkpoint-*.old"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
