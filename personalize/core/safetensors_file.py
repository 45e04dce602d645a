"""Safetensors files of any origin: every byte accounted for, or refused with the reason.

The header is checked here, because the library takes the last of two tensors of one name and reads
files of any size; it then decodes the tensors. Nothing else is ever opened: a pickle runs code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from reprlib import repr as short
from typing import Any, NoReturn

import safetensors.torch
import torch
from torch import Tensor

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
CONVERT = (
    "pickles can run code and are never opened; where you trust it, convert it: python -c "
    "\"import torch, safetensors.torch as s; d = torch.load('IN', weights_only=True); "
    "s.save_file(d.get('string_to_param', d), 'OUT.safetensors')\""
)
MAX_HEADER = 4_000_000
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


class BadFile(ValueError):
    """A file that cannot be used; the message is the reason and what to do."""


def read_safetensors(path: Path, most: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a file by name, in float32, and its metadata.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        BadFile: it is of another kind, broken, or larger; or holds numbers that are not finite, no
            numbers, or not floating point ones.
    """
    try:
        if path.suffix.lower() in PICKLES:
            raise BadFile(f"it is called a torch pickle; {CONVERT}")
        if not path.is_file():
            raise BadFile("there is no such file; check the path")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            header = file.read(min(length, MAX_HEADER))
            if len(start) + length > size or len(header) < length or header[:1] != b"{":
                raise BadFile(_other_kind(start, size))
            names, metadata = _parse(header, size - 8 - length)
            if size > most:
                raise BadFile(
                    f"it has {size / 1e6:.3g} MB, expected at most {most / 1e6:.3g} MB; it is "
                    f"something else, with tensors such as {names[0]!r:.60}"
                )
            content = start + header + file.read()
    except OSError as error:
        raise BadFile(f"it cannot be read ({error.strerror})") from error
    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise BadFile(f"it is no sound safetensors file ({error})") from error
    return {name: _finite(name, tensors[name].float()) for name in names}, metadata


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a file in float32, whole or not at all; of the same content always the same bytes.

    Raises:
        ValueError: a tensor holds numbers that are not finite.
    """
    plain = {
        name: _finite(name, tensor.detach().to("cpu", torch.float32)).contiguous()
        for name, tensor in tensors.items()
    }
    content = _in_order(safetensors.torch.save(plain, {"format": "pt", **metadata}))
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _in_order(content: bytes) -> bytes:
    """A file with its metadata by name, which the library writes in an order of chance."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[start:]


def _finite(name: str, tensor: Tensor) -> Tensor:
    if not bool(tensor.isfinite().all()):
        raise BadFile(f"{name!r:.60} holds NaN or infinity; it is spoiled, get it anew")
    return tensor


def _other_kind(start: bytes, size: int) -> str:
    if start.startswith((b"PK\3\4", b"\x80")):
        return f"it is a pickle or a zip archive, whatever its name; {CONVERT}"
    if size < 10:
        return f"it has {size} bytes and is cut short; get it anew"
    return f"it is no safetensors file, or cut short: it begins with {start!r}; get it anew"


def _parse(header: bytes, data: int) -> tuple[list[str], dict[str, str]]:
    """Names of tensors in the order of the header, and the metadata."""
    try:
        found = json.loads(header.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
    except BadFile:
        raise
    except (ValueError, RecursionError) as error:
        raise BadFile("its header is no JSON; it is no safetensors file, or broken") from error
    if not isinstance(found, dict):
        raise BadFile("its header is no JSON object; it is no safetensors file, or broken")
    metadata = found.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise BadFile("its metadata must be texts, which they are not; save it again")
    if not found:
        raise BadFile("it holds no tensors; save it again")
    end = 0
    for begin, stop, name in sorted(_span(name, entry) for name, entry in found.items()):
        if begin != end:
            raise BadFile(
                f"the bytes of {name!r:.60} begin at {begin}, expected {end}; it is broken"
            )
        end = stop
    if end != data:
        raise BadFile(f"it has {data} bytes of tensors, expected {end}; it is cut short or broken")
    return list(found), metadata


def _span(name: str, entry: Any) -> tuple[int, int, str]:
    """First byte of a tensor, the one after its last, and its name."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise BadFile(f"its header says of {name!r:.60} {short(entry)}; it is broken")
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise BadFile(
            f"{name!r:.60} is of type {short(dtype)}, expected {', '.join(_BYTES)}; save it again"
        )
    if not _are_numbers(shape, 8) or not all(shape):
        raise BadFile(f"{name!r:.60} has shape {short(shape)}, expected numbers; save it again")
    if (
        not _are_numbers(span, 2)
        or len(span) < 2
        or span[1] - span[0] != prod(shape) * _BYTES[dtype]
    ):
        raise BadFile(
            f"{name!r:.60} of shape {shape} and type {dtype} has bytes {short(span)}; it is broken"
        )
    return span[0], span[1], name


def _are_numbers(value: Any, most: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= most
        and all(type(number) is int and 0 <= number < 2**48 for number in value)
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise BadFile(f"its header names {name!r:.60} twice; save it again")
        found[name] = value
    return found


def _no_number(text: str) -> NoReturn:
    raise BadFile(f"its header holds {text}; it is broken")
