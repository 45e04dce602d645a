"""What programs call the vectors of a textual inversion.

====================  ==================================================  ========================
program               tensors                                             word
====================  ==================================================  ========================
diffusers             one, called as the word, ``(k, width)`` or (width)  the name
AUTOMATIC1111, kohya  ``emb_params``, or ``*`` after conversion           name of the file
kohya, ComfyUI        ``clip_l`` and ``clip_g``, or one of them           name of the file
Cog, advanced SDXL    ``text_encoders_0`` and ``text_encoders_1``         name of the file
here                  as diffusers, and ``clip_l`` with ``clip_g``        ``token`` of the metadata
====================  ==================================================  ========================
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from personalize.core.safetensors_file import BadFile

KEYS = ("clip_l", "clip_g")
"""Names of the vectors for the first and for the second text encoder of a pipeline."""

MAX_NORM = 1000.0
"""Vectors of words have a norm of about 0.4, trained ones up to some tens."""

MAX_VECTORS = 256
"""No prompt has room for more."""

_PAIRS = (KEYS, ("text_encoders_0", "text_encoders_1"))
_NAMELESS = ("emb_params", "*")


def name_vectors(tensors: Mapping[str, Tensor]) -> tuple[str | None, dict[str, Tensor]]:
    """The word that a file names, if any, and its vectors ``(k, width)`` by ``KEYS``.

    Raises:
        BadFile: the tensors are no vectors of one word.
    """
    for pair in _PAIRS:
        if tensors.keys() <= set(pair):
            named = {
                key: tensors[own] for key, own in zip(KEYS, pair, strict=True) if own in tensors
            }
            return None, check_vectors(named)
    if len(tensors) > 1:
        names = ", ".join(map(repr, tensors))
        raise BadFile(
            f"it holds {len(tensors)} tensors ({names:.80}), expected the vectors of one word: one "
            f"tensor, or {' and '.join(KEYS)}; load what it is, or split it"
        )
    ((name, tensor),) = tensors.items()
    return None if name in _NAMELESS else name, check_vectors({KEYS[0]: tensor})


def check_vectors(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Vectors ``(k, width)`` by their key; one of them may come as ``(width,)``.

    Raises:
        BadFile: another rank, as many vectors for each text encoder as not, vectors that are zero
            or enormous.
    """
    found = {}
    for key, tensor in vectors.items():
        shape = tuple(tensor.shape)
        if tensor.ndim not in (1, 2):
            raise BadFile(
                f"its vectors have shape {shape}, expected (vectors, width); save it again"
            )
        rows = found[key] = tensor.reshape(-1, shape[-1])
        if len(rows) > MAX_VECTORS:
            raise BadFile(
                f"it has {len(rows)} vectors, more than a prompt has room for; load what it is"
            )
        for number, norm in enumerate(rows.double().norm(dim=1).tolist(), 1):
            if norm == 0:
                raise BadFile(f"vector {number} of {len(rows)} is zero; it was not trained")
            if norm > MAX_NORM:
                raise BadFile(
                    f"vector {number} of {len(rows)} has a norm of {norm:.3g}, those of words have "
                    f"about 0.4; it is spoiled, train it with a lower learning rate"
                )
    counts = {key: len(rows) for key, rows in found.items()}
    if len(set(counts.values())) > 1:
        raise BadFile(f"it has not as many vectors for each text encoder: {counts}; save it again")
    return found


def check_word(token: str) -> None:
    """Raise BadFile unless a text can be a word of a tokenizer."""
    if not token:
        raise BadFile("its word is empty; name one with token='<word>'")
    if len(token) > 100 or not token.isprintable() or any(map(str.isspace, token)):
        raise BadFile(
            f"its word is {token!r:.60}, expected up to 100 printable characters without spaces; "
            "name another with token='<word>'"
        )
