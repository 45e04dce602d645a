"""``Artifact``: what training makes, what files hold, and what ``load`` puts on a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

TEXTUAL_INVERSION = "textual-inversion"
KIND, TOKEN = "diffusteer.kind", "token"


@dataclass(frozen=True, eq=False)
class Artifact:
    """Something learned, apart from the model that it was learned for.

    Attributes:
        kind: name of the method that it is for, such as ``textual-inversion``.
        tensors: by name. Of a textual inversion, ``clip_l (k, width)`` for the first text encoder
            and ``clip_g`` for the second.
        metadata: texts; ``token`` is the word in prompts, ``modelspec.*`` as in ModelSpec 1.0.1.

    Raises:
        ValueError: nothing in it, or numbers that are not finite.
    """

    kind: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tensors:
            raise ValueError(f"an artefact of kind {self.kind!r} needs tensors, found none")
        for name, tensor in self.tensors.items():
            if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
                raise ValueError(f"{name} must hold finite floating point numbers")

    def save(self, folder: str | Path) -> tuple[Path, ...]:
        """Write it as safetensors into a folder, which is made if needed; returns the files. See
        ``personalize.core.files.write_artifact``.
        """
        from personalize.core.files import write_artifact

        return write_artifact(self, folder)

    @staticmethod
    def load(path: str | Path) -> Artifact:
        """Read what ``save`` or another program wrote: a file, or a folder.

        Raises:
            ValueError: see ``read_artifact``.
        """
        from personalize.core.files import read_artifact

        return read_artifact(path)
