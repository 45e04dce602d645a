"""The models of the demo: loaded once, shared by all tabs and visitors, one job at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

from torch import Tensor

from apps.demo.settings import DemoSettings
from apps.pipelines import find_model, load_pipeline, model_name
from apps.schedulers import DIFFUSION, set_scheduler
from apps.shipped import shipped, shipped_names
from guidance import Inspection, inspect
from guidance.evaluators.decoded import decoder

OWN_SCHEDULER = "the model's own"
SCHEDULERS = (OWN_SCHEDULER, *DIFFUSION)
_SELF = ("image", "joint")


@dataclass(frozen=True)
class Model:
    """A pipeline, and what a form must know of it.

    Attributes:
        name: as visitors see it.
        source: folder or hub id that it was loaded from.
        pipe: the pipeline.
        inspection: its layers and heads.
        decode: from x0 ``(B, channels, height, width)`` to pictures in ``[0, 1]``, None where only
            the pipeline itself can.
    """

    name: str
    source: str
    pipe: Any
    inspection: Inspection
    decode: Callable[[Tensor], Tensor] | None

    @property
    def layers(self) -> dict[str, int]:
        """Number of heads of each layer whose heads can be softened."""
        return {part.path: part.heads for part in self.inspection.layers if part.kind in _SELF}

    @property
    def weak(self) -> dict[str, Any]:
        """Weaker versions of the model, by the name that visitors choose."""
        kind = f"{self.name}-weak"
        found = {kind: str(shipped(kind))} if kind in shipped_names() else {}
        skipped = self.inspection.skipped
        return found | ({f"without {', '.join(skipped)}": skipped} if skipped else {})

    @property
    def minority(self) -> str:
        """Folder of the shipped classifier of rarity; raises ValueError where there is none."""
        name = f"emblem-evaluators/{self.name.replace('emblem', 'minority')}"
        if name not in shipped_names():
            raise ValueError(f"MinorityGuidance: no classifier was trained for {self.name}")
        return str(shipped(name))

    @contextmanager
    def scheduled(self, name: str) -> Iterator[None]:
        """The pipeline with another scheduler; raises ValueError where it does not fit."""
        own = self.pipe.scheduler
        try:
            if name != OWN_SCHEDULER:
                set_scheduler(self.pipe, name)
            yield
        finally:
            self.pipe.scheduler = own


class Models:
    """The models, each loaded when it is first needed."""

    def __init__(self, settings: DemoSettings) -> None:
        self._settings = settings
        self._sources = {model_name(model): find_model(model) for model in settings.models}
        self._loaded: dict[str, Model] = {}
        self._lock = Lock()

    @property
    def names(self) -> Sequence[str]:
        return list(self._sources)

    @property
    def device(self) -> str:
        """Where all of them run."""
        return self._settings.device

    def __getitem__(self, name: str) -> Model:
        """The model of a name; raises ValueError where it is not one of them."""
        if name not in self._sources:
            raise ValueError(f"model must be one of {', '.join(self._sources)}, found {name!r:.60}")
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self._load(name)
            return self._loaded[name]

    def _load(self, name: str) -> Model:
        source, settings = self._sources[name], self._settings
        pipe = load_pipeline(source, device=settings.device, dtype=settings.dtype)
        vae = getattr(pipe, "vae", None)
        flat = vae is not None and not hasattr(pipe, "_unpack_latents")
        return Model(name, source, pipe, inspect(pipe), decoder(vae) if flat else None)
