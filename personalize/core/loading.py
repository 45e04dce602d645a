"""``load`` and ``unload``: learned things on a pipeline, and off it again to the bit."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from personalize.core.artifact import Artifact
from personalize.core.files import read_artifact
from personalize.core.kinds import KINDS
from personalize.core.safetensors_file import BadFile


@dataclass(frozen=True)
class Loaded:
    """What is loaded on a pipeline.

    Attributes:
        name: by which ``unload`` knows it: its word.
        kind: of the artefact.
        words: names of its tokens; prompts hold the first.
        controls: settings it was loaded with.
    """

    name: str
    kind: str
    words: tuple[str, ...]
    controls: Mapping[str, Any]


# By the part of the pipeline that bears it: other pipelines made of the same parts have it as well.
_LOADED: WeakKeyDictionary[Any, dict[str, Loaded]] = WeakKeyDictionary()


def load(
    pipe: Any, path: str | Path | Artifact, token: str | None = None, **controls: Any
) -> Loaded:
    """Put something learned on a pipeline, from a file of this package or of others.

    It acts in the pipeline's own calls, inside and outside of ``guide``. Several can be loaded one
    after the other. Everything is checked before anything on the pipeline changes.

    Args:
        pipe: diffusers pipeline.
        path: safetensors file, folder that holds one, or an artefact at hand.
        token: word to use in prompts instead of the file's.
        controls: settings of the kind, such as ``beta`` and ``temperature`` of Perfusion.

    Returns:
        Its name, and its words for prompts.

    Raises:
        TypeError: a control that the kind does not have.
        ValueError: one line with the file, the reason and what to do.
    """
    artifact = path if isinstance(path, Artifact) else read_artifact(path, token)
    source = f"this {artifact.kind}" if isinstance(path, Artifact) else repr(str(path))
    try:
        kind = KINDS.get(artifact.kind)
        if kind is None:
            raise BadFile(f"its kind {artifact.kind!r:.40} is none of {', '.join(KINDS)}")
        put_on = kind.applier.put_on
        known = [*inspect.signature(put_on).parameters][3:]
        if unknown := controls.keys() - set(known):
            raise TypeError(
                f"{artifact.kind} has no control {min(unknown)!r}; it has "
                f"{', '.join(known) or 'none'}"
            )
        words = tuple(put_on(pipe, artifact, token, **controls))
    except BadFile as error:
        raise ValueError(f"{source} cannot be used: {error}") from error
    loaded = Loaded(words[0], artifact.kind, words, controls)
    _LOADED.setdefault(_bearer(pipe, artifact.kind), {})[loaded.name] = loaded
    return loaded


def unload(pipe: Any, name: str | None = None) -> None:
    """Take off what was loaded, all of it or one thing; with the last one all is as before.

    Args:
        pipe: pipeline that it was loaded on, or another one of the same parts.
        name: its word, in any case of letters; None for everything.

    Raises:
        ValueError: nothing of this name is loaded, or the pipeline was changed by other means so
            that it cannot be put back.
    """
    found = loaded(pipe)
    chosen = [own for own in found if name is None or own.lower() == name.lower()]
    if name is not None and not chosen:
        raise ValueError(
            f"{name!r} is not loaded on this {type(pipe).__name__}; loaded: "
            f"{', '.join(found) or 'nothing'}"
        )
    for own in reversed(chosen):
        kind = found[own].kind
        KINDS[kind].applier.take_off(pipe, own)
        del _LOADED[_bearer(pipe, kind)][own]


def loaded(pipe: Any) -> dict[str, Loaded]:
    """What is loaded on a pipeline, by name."""
    found: dict[str, Loaded] = {}
    for kind in KINDS:
        borne = _LOADED.get(_bearer(pipe, kind), {})
        found |= {name: own for name, own in borne.items() if own.kind == kind}
    return found


def _bearer(pipe: Any, kind: str) -> Any:
    """The part of a pipeline that remembers what of a kind is loaded."""
    parts = (getattr(pipe, name, None) for name in KINDS[kind].parts)
    return next((part for part in parts if part is not None), pipe)
