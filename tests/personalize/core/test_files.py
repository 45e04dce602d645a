"""Files: every dialect is read, everything malformed refused in one line, and no code run."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from personalize.core.artifact import Artifact
from personalize.core.files import read_artifact, read_embeddings, write_artifact
from tests import tiny
from tests.personalize.core.malformed import CORPUS, WIDTH, Malformed, rows

# Reading


DIALECTS: dict[str, tuple[dict[str, torch.Tensor], str, dict[str, torch.Tensor]]] = {
    "diffusers": ({"<cat>": rows()}, "<cat>", {"clip_l": rows()}),
    "one vector": ({"<cat>": rows()[0]}, "<cat>", {"clip_l": rows()[:1]}),
    "kohya": ({"emb_params": rows()}, "file", {"clip_l": rows()}),
    "AUTOMATIC1111, converted": ({"*": rows()}, "file", {"clip_l": rows()}),
    "SDXL": (
        {"clip_g": rows(2, 40), "clip_l": rows()},
        "file",
        {"clip_l": rows(), "clip_g": rows(2, 40)},
    ),
    "SDXL, one vector": (
        {"clip_g": rows(1, 40)[0], "clip_l": rows(1)[0]},
        "file",
        {"clip_l": rows(1), "clip_g": rows(1, 40)},
    ),
    "the first half": ({"clip_l": rows()}, "file", {"clip_l": rows()}),
    "the second half": ({"clip_g": rows()}, "file", {"clip_g": rows()}),
    "Cog": (
        {"text_encoders_0": rows(), "text_encoders_1": rows(2, 40)},
        "file",
        {"clip_l": rows(), "clip_g": rows(2, 40)},
    ),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_is_read(tmp_path: Path, name: str) -> None:
    tensors, word, expected = DIALECTS[name]
    save_file(tensors, tmp_path / "file.safetensors")
    token, found = read_embeddings(tmp_path / "file.safetensors")
    assert token == word and list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert read_embeddings(tmp_path / "file.safetensors", "<dog>")[0] == "<dog>"
    assert read_embeddings(tmp_path)[0] == word


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_precision_comes_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"<cat>": rows().to(dtype)}, tmp_path / "a.safetensors")
    found = read_embeddings(tmp_path / "a.safetensors")[1]["clip_l"]
    assert found.dtype == torch.float32 and torch.equal(found, rows().to(dtype).float())


def test_two_files_of_diffusers_are_read_as_one(tmp_path: Path) -> None:
    save_file({"<cat>": rows()}, tmp_path / "learned_embeds.safetensors")
    save_file({"<cat>": rows(2, 40)}, tmp_path / "learned_embeds_2.safetensors")
    for path in (tmp_path, tmp_path / "learned_embeds.safetensors"):
        token, found = read_embeddings(path)
        assert token == "<cat>"
        assert {key: value.shape[1] for key, value in found.items()} == {"clip_l": 32, "clip_g": 40}


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({"<dog>": rows()}, "holds '<dog>' instead of '<cat>' for the second text encoder"),
        ({"clip_g": rows()}, "holds None instead of '<cat>'"),
        ({"<cat>": rows(3)}, "not as many vectors for each text encoder"),
    ],
)
def test_a_second_file_that_does_not_belong_is_refused(
    tmp_path: Path, second: dict[str, torch.Tensor], reason: str
) -> None:
    save_file({"<cat>": rows()}, tmp_path / "a.safetensors")
    save_file(second, tmp_path / "a_2.safetensors")
    with pytest.raises(ValueError, match=reason):
        read_embeddings(tmp_path / "a.safetensors")


def test_a_broken_second_file_is_refused(tmp_path: Path) -> None:
    save_file({"<cat>": rows()}, tmp_path / "a.safetensors")
    (tmp_path / "a_2.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="it has 0 bytes"):
        read_embeddings(tmp_path / "a.safetensors")


def test_a_folder_must_say_which_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must hold one safetensors file, found none"):
        read_artifact(tmp_path)
    save_file({"<cat>": rows()}, tmp_path / "a.safetensors")
    assert read_embeddings(tmp_path)[0] == "<cat>"
    save_file({"<dog>": rows()}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"found a.safetensors, b.safetensors; name the file"):
        read_artifact(tmp_path)
    save_file({"<owl>": rows()}, tmp_path / "learned_embeds.safetensors")
    assert read_embeddings(tmp_path)[0] == "<owl>"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", Path("/dev/zero")):
        with pytest.raises(ValueError, match="there is no such file; check the path"):
            read_artifact(path)


# Writing


METADATA = {"token": "<cat>", "nearest_words": "{}"}


def test_the_same_artefact_has_the_same_bytes(tmp_path: Path) -> None:
    about = METADATA | {f"ä {number}": "ö" for number in range(20)}
    tensors = {"clip_l": rows(2), "clip_g": rows(2, 40)}
    files = []
    for metadata in (about, dict(reversed(about.items()))):
        artifact = Artifact("textual-inversion", tensors, metadata)
        files.append([path.read_bytes() for path in write_artifact(artifact, tmp_path)])
    assert len(files[0]) == 3 and files[0] == files[1]
    found = read_artifact(tmp_path / "learned_embeds.safetensors")
    assert about.items() <= dict(found.metadata).items()
    assert all(int.from_bytes(content[:8], "little") % 8 == 0 for content in files[0])


def test_one_encoder_gets_the_file_of_diffusers(tmp_path: Path) -> None:
    artifact = Artifact("textual-inversion", {"clip_l": rows()}, METADATA)
    (path,) = artifact.save(tmp_path / "new" / "folder")
    assert path.name == "learned_embeds.safetensors"
    found = load_file(path)
    assert list(found) == ["<cat>"] and torch.equal(found["<cat>"], rows())
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata.items() >= {"format": "pt", **METADATA}.items()
    content = rows().numpy().tobytes()
    assert metadata["modelspec.trigger_phrase"] == "<cat>"
    assert metadata["modelspec.hash_sha256"] == f"0x{hashlib.sha256(content).hexdigest()}"
    assert path.read_bytes().endswith(content)


def test_two_encoders_get_two_files_and_one_for_other_programs(tmp_path: Path) -> None:
    tensors = {"clip_l": rows(), "clip_g": rows(2, 40)}
    paths = write_artifact(Artifact("textual-inversion", tensors, METADATA), tmp_path)
    first, second, both = (load_file(path) for path in paths)
    assert [path.name for path in paths] == [
        "learned_embeds.safetensors",
        "learned_embeds_2.safetensors",
        "cat.safetensors",
    ]
    assert torch.equal(first["<cat>"], rows()) and torch.equal(second["<cat>"], rows(2, 40))
    assert both.keys() == tensors.keys() and torch.equal(both["clip_g"], rows(2, 40))
    for path in (tmp_path, paths[0], paths[2]):
        back = Artifact.load(path)
        assert back.kind == "textual-inversion" and list(back.tensors) == ["clip_l", "clip_g"]
        assert back.metadata.items() >= METADATA.items()
        assert all(torch.equal(back.tensors[key], tensors[key]) for key in tensors)


def test_other_kinds_come_back_as_they_were(tmp_path: Path) -> None:
    artifact = Artifact("perfusion", {"i_star": rows(), "b": rows()[0]}, METADATA | {"beta": "0.5"})
    (path,) = artifact.save(tmp_path)
    assert path.name == "perfusion.safetensors"
    back = read_artifact(tmp_path)
    assert back.kind == "perfusion" and back.metadata.items() >= artifact.metadata.items()
    assert all(torch.equal(back.tensors[key], artifact.tensors[key]) for key in artifact.tensors)
    with pytest.raises(ValueError, match="it is of kind 'perfusion', expected 'textual-inversion'"):
        read_embeddings(tmp_path)


def test_files_load_in_plain_diffusers(tmp_path: Path, sd: Any, sdxl: Any) -> None:
    Artifact("textual-inversion", {"clip_l": rows()}, METADATA).save(tmp_path / "sd")
    sd.load_textual_inversion(str(tmp_path / "sd"))
    assert torch.equal(sd.text_encoder.get_input_embeddings().weight[-2:], rows())
    both = {"clip_l": rows(), "clip_g": rows(seed=1)}
    Artifact("textual-inversion", both, METADATA).save(tmp_path / "xl")
    encoder, words = sdxl.text_encoder_2, tiny.tokenizer()
    second = str(tmp_path / "xl" / "learned_embeds_2.safetensors")
    sdxl.load_textual_inversion(second, text_encoder=encoder, tokenizer=words)
    assert torch.equal(encoder.get_input_embeddings().weight[-2:], rows(seed=1))
    assert words.tokenize("<cat>") == ["<cat>"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_is_written_that_is_not_finite(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="clip_l must hold finite floating point numbers"):
        Artifact("textual-inversion", {"clip_l": rows() * value}, METADATA)
    large = Artifact("textual-inversion", {"clip_l": rows().double() * 1e300}, METADATA)
    with pytest.raises(ValueError, match="'<cat>' holds NaN or infinity"):
        large.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_artefact_needs_numbers() -> None:
    with pytest.raises(ValueError, match="needs tensors, found none"):
        Artifact("perfusion", {})
    with pytest.raises(ValueError, match="must hold finite floating point numbers"):
        Artifact("perfusion", {"a": torch.ones(2, dtype=torch.int64)})


# What is refused


def refused(call: Callable[[Path], object], malformed: Malformed, folder: Path) -> None:
    """Assert that a call on a file raises its one line within a second, and runs none of it."""
    path, trap = folder / malformed.name, folder / "trapped"
    path.write_bytes(malformed.make(trap))
    start = time.process_time()
    with pytest.raises(ValueError, match=malformed.reason) as caught:
        call(path)
    message = str(caught.value)
    assert time.process_time() - start < 1
    assert str(path) in message and "\n" not in message and len(message) < 600
    assert ";" in message or "expected" in message
    assert not trap.exists() and not Path("trapped").exists()


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 31


@pytest.mark.parametrize("name", CORPUS)
def test_malformed_files_are_refused(tmp_path: Path, name: str) -> None:
    refused(read_artifact, CORPUS[name], tmp_path)


SOUND = {
    "diffusers": save({"<cat>": rows()}, {"format": "pt"}),
    "kohya": save({"emb_params": rows()}),
    "SDXL": save({"clip_l": rows(), "clip_g": rows(2, 40)}),
    "two files": save({"<cat>": rows()}),
}
MUTANTS = 2000


def mutate(content: bytes, generator: random.Random) -> bytes:
    """Some bytes changed, most of them in the header; some taken out, put in, or cut off."""
    spoiled = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 8))):
        size = len(spoiled) - 1
        place = generator.randrange(generator.choice((8, size // 2, size)))
        how = generator.random()
        if how < 0.7:
            spoiled[place] = generator.choice((generator.randrange(256), *b'{}[]",:0-9'))
        elif how < 0.8:
            del spoiled[place : place + generator.randrange(1, 9)]
        elif how < 0.9:
            spoiled[place:place] = generator.randbytes(generator.randrange(1, 9))
        else:
            del spoiled[max(place, 32) :]
    return bytes(spoiled)


@pytest.mark.parametrize("name", SOUND)
def test_mutated_files_raise_nothing_else(tmp_path: Path, name: str) -> None:
    generator = random.Random(name)
    path, spoiled = tmp_path / "a.safetensors", tmp_path / "a.safetensors"
    path.write_bytes(SOUND[name])
    if name == "two files":
        spoiled = tmp_path / "a_2.safetensors"
    refusals = 0
    for _ in range(MUTANTS):
        spoiled.unlink(missing_ok=True)  # much faster than to write over it
        spoiled.write_bytes(mutate(SOUND[name], generator))
        try:
            token, found = read_embeddings(path)
        except ValueError as error:
            refusals += 1
            assert str(error).startswith(f"{str(path)!r} cannot be used: ")
            assert "\n" not in str(error)
        else:
            assert token and not any(map(str.isspace, token))
            assert all(rows.ndim == 2 and bool(rows.isfinite().all()) for rows in found.values())
    assert MUTANTS / 2 < refusals < MUTANTS


def test_only_the_width_is_not_known_to_a_file(tmp_path: Path) -> None:
    save_file({"<cat>": rows(2, WIDTH + 1)}, tmp_path / "a.safetensors")
    assert read_embeddings(tmp_path)[1]["clip_l"].shape == (2, WIDTH + 1)
