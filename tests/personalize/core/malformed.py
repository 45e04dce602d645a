"""Files that must not be loaded: what is in them, and what the one line about them says."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

WIDTH = 32
"""Of the text encoders of the tiny pipelines."""


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@dataclass(frozen=True)
class Malformed:
    """A file.

    Attributes:
        make: its content, given a path that running code would create.
        reason: pattern of the message.
        name: of the file.
    """

    make: Callable[[Path], bytes]
    reason: str
    name: str = "cat.safetensors"


def rows(count: int = 2, width: int = WIDTH, seed: int = 0) -> torch.Tensor:
    """Vectors as somebody may have trained them."""
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) / 10


def raw(header: Any, data: bytes = bytes(4 * WIDTH)) -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**changes: Any) -> dict[str, Any]:
    """Header of one vector, with changes."""
    return {"dtype": "F32", "shape": [1, WIDTH], "data_offsets": [0, 4 * WIDTH]} | changes


def torch_file(trap: Path, legacy: bool) -> bytes:
    """What ``torch.save`` writes, with a trap in it."""
    file = io.BytesIO()
    torch.save({"<cat>": Trap(trap)}, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def archive() -> bytes:
    """A zip archive with a sound file in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as inner:
        inner.writestr("cat.safetensors", save({"<cat>": rows()}))
    return file.getvalue()


def spoiled(value: float) -> torch.Tensor:
    """Vectors with one odd number."""
    tensor = rows()
    tensor[1, 3] = value
    return tensor


ONE = {"<cat>": entry()}
TWICE = b'{"<cat>": %b, "<cat>": %b}' % (2 * (json.dumps(entry()).encode(),))
TWICE_WITHIN = json.dumps(ONE).encode().replace(b'"dtype"', b'"shape": [2, 16], "dtype"')
DEEP = b'{"<cat>": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
YAML = b"!!python/object/apply:os.system ['touch trapped']\n"

HEADERS = {
    "no bytes": Malformed(lambda trap: b"", "it has 0 bytes and is cut short"),
    "length alone": Malformed(lambda trap: bytes(8), "it has 8 bytes and is cut short"),
    "header of no length": Malformed(
        lambda trap: raw(b"", b"{}" * 64), "it is no safetensors file"
    ),
    "header longer than the file": Malformed(
        lambda trap: struct.pack("<Q", 10_000) + json.dumps(ONE).encode(), "it is no safetensors"
    ),
    "header of 2^63 bytes": Malformed(
        lambda trap: struct.pack("<Q", 2**63) + json.dumps(ONE).encode(), "it is no safetensors"
    ),
    "header of 5 MB": Malformed(
        lambda trap: raw(json.dumps(ONE).encode() + b" " * 5_000_000), "it is no safetensors"
    ),
    "cut in the data": Malformed(lambda trap: save({"<cat>": rows()})[:-4], "cut short or broken"),
    "bytes after the data": Malformed(
        lambda trap: save({"<cat>": rows()}) + b"PK\3\4",
        "it has 260 bytes of tensors, expected 256",
    ),
    "header no JSON": Malformed(lambda trap: raw(b"{<cat>}"), "its header is no JSON"),
    "header no UTF-8": Malformed(lambda trap: raw(b'{"\xff": 1}'), "its header is no JSON"),
    "header a list": Malformed(lambda trap: raw([ONE]), "it is no safetensors file"),
    "header too deep": Malformed(lambda trap: raw(DEEP), "its header is no JSON"),
    "header with NaN": Malformed(
        lambda trap: raw({"<cat>": entry(shape=[float("nan")])}), "its header holds NaN"
    ),
    "a tensor twice": Malformed(lambda trap: raw(TWICE), "its header names '<cat>' twice"),
    "a shape twice": Malformed(lambda trap: raw(TWICE_WITHIN), "its header names 'shape' twice"),
    "metadata no texts": Malformed(
        lambda trap: raw({"__metadata__": {"a": 1}, **ONE}), "its metadata must be texts"
    ),
    "metadata a list": Malformed(
        lambda trap: raw({"__metadata__": [], **ONE}), "its metadata must be texts"
    ),
    "entry a number": Malformed(lambda trap: raw({"<cat>": 3}), "its header says of '<cat>' 3"),
    "entry without shape": Malformed(
        lambda trap: raw({"<cat>": {"dtype": "F32", "data_offsets": [0, 128]}}),
        "its header says of",
    ),
    "entry with more": Malformed(lambda trap: raw({"<cat>": entry(more=1)}), "its header says of"),
    "shape below zero": Malformed(
        lambda trap: raw({"<cat>": entry(shape=[-1, -32])}), r"has shape \[-1, -32\], expected"
    ),
    "shape no numbers": Malformed(
        lambda trap: raw({"<cat>": entry(shape=[1, "32"])}), r"has shape \[1, '32'\], expected"
    ),
    "shape a text": Malformed(lambda trap: raw({"<cat>": entry(shape="32")}), "has shape '32'"),
    "shape of true": Malformed(
        lambda trap: raw({"<cat>": entry(shape=[True, 32])}), r"has shape \[True, 32\], expected"
    ),
    "shape of 2^64": Malformed(
        lambda trap: raw({"<cat>": entry(shape=[2**64, 32])}), r"has shape \[1844\d+, 32\]"
    ),
    "shape of another size": Malformed(
        lambda trap: raw({"<cat>": entry(shape=[2, 32])}),
        r"of shape \[2, 32\] and type F32 has bytes \[0, 128\]; it is broken",
    ),
    "shape of a million numbers": Malformed(
        lambda trap: raw({"<cat>": entry(shape=[1] * 1_000_000)}), "has shape .*, expected numbers"
    ),
    "offsets beyond the end": Malformed(
        lambda trap: raw({"<cat>": entry(data_offsets=[64, 192])}), "begin at 64, expected 0"
    ),
    "offsets backwards": Malformed(
        lambda trap: raw({"<cat>": entry(data_offsets=[128, 0])}), "it is broken"
    ),
    "no offsets": Malformed(lambda trap: raw({"<cat>": entry(data_offsets=[])}), "it is broken"),
    "offsets of three": Malformed(
        lambda trap: raw({"<cat>": entry(data_offsets=[0, 128, 128])}), "it is broken"
    ),
    "two tensors on the same bytes": Malformed(
        lambda trap: raw({"a": entry(), "b": entry()}), "the bytes of 'b' begin at 0, expected 128"
    ),
}

CONTENTS = {
    "no tensors": Malformed(lambda trap: save({}), "it holds no tensors"),
    "no tensors but metadata": Malformed(lambda trap: save({}, {"a": "b"}), "it holds no tensors"),
    "no vectors": Malformed(
        lambda trap: save({"<cat>": rows(0)}), "has shape .*, expected numbers"
    ),
    "NaN": Malformed(lambda trap: save({"<cat>": spoiled(float("nan"))}), "'<cat>' holds NaN"),
    "infinity": Malformed(lambda trap: save({"<cat>": spoiled(float("inf"))}), "holds NaN or inf"),
    "infinity once it is float32": Malformed(
        lambda trap: save({"<cat>": spoiled(0).double() + 1e300}), "holds NaN or infinity"
    ),
    "one vector of zeros": Malformed(
        lambda trap: save({"<cat>": rows() * torch.tensor([[1.0], [0.0]])}), "vector 2 of 2 is zero"
    ),
    "absurd norm": Malformed(
        lambda trap: save({"<cat>": rows() * 1e6}), "vector 1 of 2 has a norm of .*e[+]05"
    ),
    "norm beyond float32": Malformed(
        lambda trap: save({"<cat>": rows() * 1e37}), "vector 1 of 2 has a norm of .*e[+]3"
    ),
    "whole numbers": Malformed(
        lambda trap: save({"<cat>": torch.ones(2, WIDTH, dtype=torch.int64)}), "is of type 'I64'"
    ),
    "truth values": Malformed(
        lambda trap: save({"<cat>": torch.ones(2, WIDTH, dtype=torch.bool)}), "is of type 'BOOL'"
    ),
    "8 bit floats": Malformed(
        lambda trap: save({"<cat>": rows().to(torch.float8_e4m3fn)}), "is of type 'F8_E4M3'"
    ),
    "one number": Malformed(
        lambda trap: save({"<cat>": torch.tensor(1.0)}), r"have shape \(\), expected"
    ),
    "rank 3": Malformed(lambda trap: save({"<cat>": rows()[None]}), r"have shape \(1, 2, 32\)"),
    "rank 9": Malformed(
        lambda trap: save({"<cat>": torch.ones(9 * (1,))}), "has shape .*, expected numbers"
    ),
    "vectors for nobody": Malformed(
        lambda trap: save({"<cat>": rows(300)}), "it has 300 vectors, more than a prompt has room"
    ),
    "two words": Malformed(
        lambda trap: save({"<cat>": rows(), "<dog>": rows()}), "it holds 2 tensors"
    ),
    "a LoRA": Malformed(
        lambda trap: save({f"unet.{n}.lora_A.weight": rows() for n in range(99)}),
        "holds 99 tensors",
    ),
    "a part of another encoder": Malformed(
        lambda trap: save({"clip_l": rows(), "clip_g": rows(), "t5xxl": rows()}), "holds 3 tensors"
    ),
    "not as many vectors": Malformed(
        lambda trap: save({"clip_l": rows(1), "clip_g": rows(2)}), "not as many vectors for each"
    ),
    "oversized": Malformed(
        lambda trap: raw(
            {"<cat>": entry(shape=[65_000_000 // 4], data_offsets=[0, 65_000_000])},
            bytes(65_000_000),
        ),
        "it has 65 MB, expected at most 64 MB",
    ),
    "an empty word": Malformed(lambda trap: save({"": rows()}), "its word is empty"),
    "a word with a space": Malformed(lambda trap: save({"my cat": rows()}), "without spaces"),
    "a word with a line": Malformed(lambda trap: save({"a\nb": rows()}), "without spaces"),
    "a word of control": Malformed(lambda trap: save({"a\x1b[2Jb": rows()}), "printable"),
    "a long word": Malformed(lambda trap: save({"a" * 101: rows()}), "up to 100 printable"),
    "a word of metadata": Malformed(
        lambda trap: save({"<cat>": rows()}, {"token": "my cat"}), "its word is 'my cat'"
    ),
    "a kind of tomorrow": Malformed(
        lambda trap: save({"a": rows()}, {"diffusteer.kind": "hypernet"}),
        "it is of kind 'hypernet'",
    ),
    "other tensors than were saved": Malformed(
        lambda trap: save(
            {"<cat>": rows()},
            {"diffusteer.kind": "textual-inversion", "modelspec.hash_sha256": "0x00"},
        ),
        "its tensors are not those that were saved",
    ),
}

OTHERS = {
    "a pickle": Malformed(lambda trap: pickle.dumps(Trap(trap)), "it is a pickle"),
    "an old pickle": Malformed(lambda trap: pickle.dumps(Trap(trap), 0), "it is no safetensors"),
    "a torch file": Malformed(lambda trap: torch_file(trap, False), "it is a pickle or a zip"),
    "an old torch file": Malformed(lambda trap: torch_file(trap, True), "it is a pickle or a zip"),
    "a zip archive": Malformed(lambda trap: archive(), "it is a pickle or a zip archive"),
    "YAML with tags": Malformed(lambda trap: YAML, "it is no safetensors file"),
    "YAML by name": Malformed(lambda trap: YAML, "it is no safetensors file", "cat.yaml"),
    "JSON": Malformed(lambda trap: b'{"<cat>": [0.1, 0.2]}', "it is no safetensors file"),
    "a web page": Malformed(lambda trap: b"<!DOCTYPE html><html></html>", "it is no safetensors"),
    "a pointer of git": Malformed(
        lambda trap: b"version https://git-lfs.github.com/spec/v1\n", "it is no safetensors file"
    ),
    "a torch file by name": Malformed(
        lambda trap: torch_file(trap, False), "called a torch pickle; .*never opened", "cat.pt"
    ),
    "a sound file called .bin": Malformed(
        lambda trap: save({"<cat>": rows()}), "called a torch pickle; .*python -c", "cat.bin"
    ),
}

CORPUS = HEADERS | CONTENTS | OTHERS
