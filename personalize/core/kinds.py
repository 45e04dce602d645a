"""The table of what can be loaded: one line each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from personalize.core.artifact import TEXTUAL_INVERSION, Artifact


class Applier(Protocol):
    """Module that puts artefacts of a kind on a pipeline and takes them off.

    ``put_on`` may have further arguments, which are the kind's controls. It checks all that can be
    wrong before it changes anything, and keeps no reference to the pipeline or its parts in any
    place that outlives them.
    """

    def put_on(self, pipe: Any, artifact: Artifact, token: str | None) -> tuple[str, ...]:
        """Change the pipeline; returns the words that prompts can use, the first names it."""
        ...

    def take_off(self, pipe: Any, name: str) -> None:
        """Put back what ``put_on`` changed, to the bit, whatever else is on the pipeline."""
        ...


@dataclass(frozen=True)
class Kind:
    """A kind of artefact.

    Attributes:
        module: an ``Applier``, imported when one is loaded.
        file: name of the file in a folder.
        parts: names of the pipeline's part that remembers what is on it; the first that is there.
    """

    module: str
    file: str
    parts: tuple[str, ...]

    @property
    def applier(self) -> Any:
        return import_module(self.module)


KINDS: dict[str, Kind] = {
    TEXTUAL_INVERSION: Kind(
        "personalize.core.words", "learned_embeds.safetensors", ("text_encoder", "text_encoder_2")
    ),
    "perfusion": Kind("personalize.core.concepts", "perfusion.safetensors", ("unet",)),
}
