"""Reading what was learned, from files of this package and of others."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from personalize.core.artifact import KIND, TEXTUAL_INVERSION, TOKEN, Artifact
from personalize.core.dialects import KEYS, check_vectors, check_word, name_vectors
from personalize.core.kinds import KINDS
from personalize.core.safetensors_file import BadFile, read_safetensors, write_safetensors

__all__ = ["Artifact", "read_artifact", "read_embeddings", "write_artifact"]

MAX_BYTES = 64_000_000
HASH = "modelspec.hash_sha256"


def read_artifact(path: str | Path, token: str | None = None) -> Artifact:
    """What a safetensors file or folder holds, whoever wrote it; see ``personalize.core.dialects``.

    Of ``x.safetensors`` with ``x_2.safetensors`` beside it, as diffusers has them for two text
    encoders, both are read. Pickles are never opened.

    Args:
        path: of the file, or of a folder that holds one.
        token: word for the vectors of a textual inversion, instead of the file's.

    Raises:
        ValueError: one line with the file, the reason and what to do.
    """
    path = Path(path)
    try:
        file = _in_folder(path) if path.is_dir() else path
        tensors, metadata = read_safetensors(file, MAX_BYTES)
        kind = metadata.pop(KIND, None)
        if kind is not None:
            _check_own(kind, tensors, metadata)
        if kind in (None, TEXTUAL_INVERSION):
            return _textual_inversion(file, tensors, metadata, token)
        return Artifact(str(kind), tensors, metadata)
    except BadFile as error:
        raise ValueError(f"{str(path)!r} cannot be used: {error}") from error


def read_embeddings(path: str | Path, token: str | None = None) -> tuple[str, dict[str, Tensor]]:
    """Word and vectors ``(k, width)`` of a textual inversion, see ``read_artifact``.

    Vectors for the first text encoder, or for the only one, are called ``clip_l``; those for the
    second are called ``clip_g``.
    """
    artifact = read_artifact(path, token)
    if artifact.kind != TEXTUAL_INVERSION:
        raise ValueError(
            f"{str(path)!r} cannot be used: it is of kind {artifact.kind!r}, expected "
            f"{TEXTUAL_INVERSION!r}; load() loads it"
        )
    return artifact.metadata[TOKEN], dict(artifact.tensors)


def write_artifact(artifact: Artifact, folder: str | Path) -> tuple[Path, ...]:
    """Write an artefact as safetensors into a folder, which is made if needed; returns the files.

    A textual inversion gets the files of diffusers, ``learned_embeds.safetensors`` and for two text
    encoders ``learned_embeds_2.safetensors``, and then also one file with ``clip_l`` and ``clip_g``
    for other programs, named after the word as they expect. Other kinds get ``<kind>.safetensors``.

    Raises:
        ValueError: a number is not finite in float32.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = _layout(artifact)
    for name, tensors in files.items():
        own = {KIND: artifact.kind, HASH: _tensors_hash(tensors)}
        if TOKEN in artifact.metadata:
            own["modelspec.trigger_phrase"] = artifact.metadata[TOKEN]
        write_safetensors(folder / name, tensors, {**artifact.metadata, **own})
    return tuple(folder / name for name in files)


def _layout(artifact: Artifact) -> dict[str, Mapping[str, Tensor]]:
    if artifact.kind != TEXTUAL_INVERSION:
        return {KINDS[artifact.kind].file: artifact.tensors}
    token, vectors = artifact.metadata[TOKEN], list(artifact.tensors.values())
    files: dict[str, Mapping[str, Tensor]] = {
        f"learned_embeds{number}.safetensors": {token: rows}
        for number, rows in zip(("", "_2"), vectors, strict=False)
    }
    if len(vectors) > 1:
        name = re.sub(r"[^\w-]+", "", token) or "embedding"
        files[f"{name}.safetensors"] = artifact.tensors
    return files


def _in_folder(folder: Path) -> Path:
    known = [folder / kind.file for kind in KINDS.values() if (folder / kind.file).is_file()]
    found = known or sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise BadFile(
            f"the folder must hold one safetensors file, found {names:.200}; name the file"
        )
    return found[0]


def _check_own(kind: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    if kind not in KINDS:
        raise BadFile(
            f"it is of kind {kind!r:.40}, which is not known here: {', '.join(KINDS)}; a newer "
            "diffusteer may know it"
        )
    if metadata.get(HASH, found := _tensors_hash(tensors)) != found:
        raise BadFile("its tensors are not those that were saved, by their hash; get it anew")


def _textual_inversion(
    file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str], token: str | None
) -> Artifact:
    name, vectors = name_vectors(tensors)
    second = file.with_name(f"{file.stem}_2{file.suffix}")
    if vectors.keys() == {KEYS[0]} and second.is_file():
        other, more = name_vectors(read_safetensors(second, MAX_BYTES)[0])
        if other != name or more.keys() != {KEYS[0]}:
            raise BadFile(
                f"{second.name} beside it holds {other!r:.60} instead of {name!r:.60} for the "
                "second text encoder; keep what does not belong together apart"
            )
        vectors = check_vectors(vectors | {KEYS[1]: more[KEYS[0]]})
    named = (token, metadata.get(TOKEN), name, file.stem)
    word = next(text for text in named if text is not None)
    check_word(word)
    return Artifact(TEXTUAL_INVERSION, vectors, {**metadata, TOKEN: word})


def _tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of the tensors' bytes in float32, by name as a safetensors file has them, in hex."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].detach().cpu().float().contiguous().numpy().tobytes())
    return f"0x{digest.hexdigest()}"
