"""Searches on pictures that no cell shows: for attention heads, and for a layer to beat."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from apps.claims.cells import Material
from apps.claims.measure import CALL
from apps.claims.requests import draw_requests
from apps.claims.settings import EACH
from apps.hunt.objectives import NamedObjective, load_objective
from apps.pictures import write_file
from guidance import HeadSet, SoftPAG, hunt
from guidance.core.denoiser import network
from guidance.core.target import Target
from guidance.head_set import layers_and_heads
from guidance.hunting.trial import Trial

OBJECTIVES = {
    "quality": "clip",
    "striped": "emblem:texture=striped",
    "outlined": "emblem:style=outlined",
}
"""What heads are searched for, by the name of the measure that tells it on other pictures."""

PROMPTS, SEED = "untextured", 1000
COUNT, SEEDS = 16, (2**31, 2**31 + 1)
STEPS, BATCH, K = 10, 32, 3


@dataclass(frozen=True)
class Search:
    """What heads and layers are searched for, with the same pictures.

    Attributes:
        material: the model, and where scores and results are kept.
        model: its name.
        measure: key of ``OBJECTIVES``.
        scale: of ``SoftPAG``, at strength 1.
    """

    material: Material
    model: str
    measure: str
    scale: float

    @property
    def path(self) -> Path:
        """Where the heads are, once they are found."""
        kind = f"{self.model}-{self.measure}-{self.scale:g}-{self.material.weights}"
        return self.material.work / f"heads-{kind}.json"

    @cached_property
    def prompts(self) -> list[str]:
        """Different prompts, none of them of a cell's seed."""
        requests = draw_requests(PROMPTS, 4 * EACH * COUNT, SEED)
        return list(dict.fromkeys(request.prompt for request in requests))[:COUNT]

    @property
    def call(self) -> dict[str, Any]:
        """Further arguments of the pipeline's call: no guidance beside the heads."""
        call = {"num_inference_steps": STEPS, "guidance_scale": 1.0}
        return call | CALL.get(self.model, {})

    @cached_property
    def objective(self) -> NamedObjective:
        """What scores the pictures."""
        return load_objective(OBJECTIVES[self.measure])

    def heads(self) -> HeadSet:
        """The heads of the search, found now or before."""
        if not self.path.is_file():
            found = hunt(
                self.material.pipe,
                self.objective,
                self.prompts,
                SEEDS,
                k=K,
                scale=self.scale,
                call=self.call,
                batch_size=BATCH,
                folder=self.path.with_suffix(".work"),
            )
            found.save(self.path)
        return HeadSet.load(self.path).best()

    def layers(self) -> dict[str, float]:
        """Score of each whole layer, and of none as ``""``, known now or before."""
        path = self.path.with_suffix(".layers")
        if not path.is_file():
            model = network(next(iter(Target(self.material.pipe).denoisers)))
            pairs = tuple((prompt, seed) for prompt in self.prompts for seed in SEEDS)
            softened = partial(SoftPAG, self.scale)
            pipe = self.material.pipe
            trial = Trial(pipe, self.objective, pairs, softened, None, self.call, BATCH)
            sets = {
                layer: tuple((layer, head) for head in range(count))
                for layer, count in layers_and_heads(model).items()
            }
            scores = {layer: trial.scores(heads) for layer, heads in ({"": ()} | sets).items()}
            means = {layer: sum(each) / len(each) for layer, each in scores.items()}
            write_file(path, (json.dumps(means, indent=1) + "\n").encode())
        known: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        return known

    def told(self) -> dict[str, Any]:
        """What was found, and what it took, as JSON types."""
        found, layers = HeadSet.load(self.path), self.layers()
        pictures = len(self.prompts) * len(SEEDS)
        return {
            "objective": found.objective,
            "none": found.baseline,
            "heads": [
                [*head, score] for head, score in zip(found.heads, found.scores, strict=True)
            ],
            "taken": len(found.best().heads),
            "alone": [[*head, score] for head, score in found.rounds[0].items()],
            "layers": layers,
            "pictures": pictures * (1 + sum(map(len, found.rounds))),
            "pictures for layers": pictures * len(layers),
            "steps": STEPS,
        }

    def best_layer(self) -> str:
        """The layer that scores best when all of it is softened."""
        scores = self.layers()
        return max((layer for layer in scores if layer), key=scores.__getitem__)
