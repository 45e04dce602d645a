"""``diffusteer claims personalize``: concepts learned from five photos, read by the classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from apps.claims.concepts import MEASURES, PROMPTS, Group
from apps.claims.estimates import Estimate
from apps.claims.learning import MODEL, RECIPES, Learned, learn
from apps.claims.measure import BATCH, versions
from apps.claims.networks import fingerprint
from apps.claims.personal_cells import CELLS, PersonalCell
from apps.claims.personal_figures import draw_figures, draw_pictures
from apps.claims.results import machine, write_results
from apps.claims.run import OnProgress, chosen, shown
from apps.claims.settings import PersonalizeSettings
from apps.claims.store import Measured, Store
from apps.emblem.score import Scorer
from apps.evaluate.numbers.intervals import RESAMPLES, means, resamples
from apps.pipelines import load_pipeline, pick_device
from apps.sample import check_writable
from apps.shipped import shipped
from personalize import load, unload

STEPS, SCALE = 20, 4.0
COLUMNS = (
    "cell",
    "learned",
    "controls",
    "prompts",
    "training_steps",
    "training_seconds",
    "training_memory",
    "bytes",
)
INTERVALS = (
    f"95 %, percentiles over {RESAMPLES} bootstrap resamples of the pictures; the concepts and "
    "their photos are fixed"
)


class Personal:
    """Measures cells group by group, and keeps what is measured.

    Args:
        settings: seed, pictures of a cell, and folders.
    """

    def __init__(self, settings: PersonalizeSettings) -> None:
        self.settings = settings
        self.store = Store(settings.work)
        self.scorer = Scorer.from_pretrained(shipped("emblem-classifier"))
        self.pipe = load_pipeline(MODEL, dtype="float32")
        self.groups = cache(self._groups)

    def _groups(self, prompts: str) -> dict[str, Group]:
        return PROMPTS[prompts](self.settings.images // self.settings.unit, self.settings.seed)

    def learned(self, cell: PersonalCell, group: Group) -> list[Learned]:
        """What the cell loads for a group, trained if it was not; nothing for the model itself."""
        if not cell.recipe:
            return []
        return [learn(cell.recipe, concept, self.settings.work) for concept in group.concepts]

    def about(self, cell: PersonalCell, name: str) -> dict[str, Any]:
        """All that decides what a group of a cell gives."""
        recipe = RECIPES.get(cell.recipe)
        return {
            "model": MODEL,
            "weights": fingerprint(MODEL),
            "recipe": recipe and [dict(recipe.settings), dict(recipe.training)],
            "controls": dict(cell.controls),
            "prompts": cell.prompts,
            "group": name,
            "steps": STEPS,
            "scale": SCALE,
            "images": self.settings.images,
            "seed": self.settings.seed,
            "versions": versions(),
        }

    def find(self, cell: PersonalCell) -> dict[str, Measured] | None:
        """The groups of a finished cell with the settings of now, if it is finished."""
        found = {}
        for name in self.groups(cell.prompts):
            measured = self.store.read(_file(cell, name), self.about(cell, name))
            if measured is None:
                return None
            found[name] = measured
        return found

    def measure(self, cell: PersonalCell, on_pictures: Callable[[int], None]) -> None:
        """Draw and read the groups of a cell that are not there yet."""
        done = 0
        for name, group in self.groups(cell.prompts).items():
            on_pictures(done)
            about = self.about(cell, name)
            if self.store.read(_file(cell, name), about) is None:
                self.store.write(_file(cell, name), self._measured(cell, group, about))
            done += len(group.goals)
        on_pictures(done)

    def _measured(self, cell: PersonalCell, group: Group, about: dict[str, Any]) -> Measured:
        words = group.personal if cell.recipe else group.plain
        for learned in self.learned(cell, group):
            load(self.pipe, learned.path, **cell.controls)
        try:
            images = self._draw(words)
        finally:
            unload(self.pipe)
        reading = self.scorer.read(images.float().div(127.5).sub(1))
        return Measured(
            settings=about,
            evaluations=2.0 * STEPS,
            seconds=0.0,
            images=images,
            features=reading.features,
            values={name: torch.tensor(found) for name, found in group.values(reading).items()},
        )

    def _draw(self, prompts: tuple[str, ...]) -> Tensor:
        """uint8 pictures (N, 3, 64, 64); picture i of every group has noise of ``seed + i``."""
        made = []
        for start in range(0, len(prompts), BATCH):
            part = prompts[start : start + BATCH]
            seeds = range(self.settings.seed + start, self.settings.seed + start + len(part))
            images = self.pipe(
                list(part),
                num_inference_steps=STEPS,
                guidance_scale=SCALE,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type="pt",
            ).images
            made.append(images.mul(255).round().byte().cpu())
        return torch.cat(made)

    def row(self, cell: PersonalCell, found: Mapping[str, Measured]) -> dict[str, Any]:
        """The numbers of a finished cell."""
        counts = resamples(self.settings.images, self.settings.seed)
        measures = {}
        for name in MEASURES:
            values = torch.cat([measured.values[name] for measured in found.values()]).double()
            if not values.isnan().all():
                estimate = Estimate(values.nanmean().item(), means(values, counts))
                measures[name] = estimate.to_dict()
        first = {
            name: learned[0]
            for name, group in self.groups(cell.prompts).items()
            if (learned := self.learned(cell, group))
        }
        return {
            "cell": cell.name,
            "learned": cell.label,
            "controls": dict(cell.controls),
            "numbers": cell.numbers,
            "prompts": cell.prompts,
            "training_steps": _mean([each.steps for each in first.values()]),
            "training_seconds": _mean([each.seconds for each in first.values()]),
            "training_memory": _mean([each.memory for each in first.values()]),
            "bytes": _mean([each.bytes for each in first.values()]),
            "measures": measures,
            "groups": {
                name: {key: value.nanmean().item() for key, value in measured.values.items()}
                for name, measured in found.items()
            },
        }


def _file(cell: PersonalCell, group: str) -> str:
    return f"{cell.name}-{group.replace('><', '-').strip('<>')}"


def _mean(values: list[float] | list[int]) -> float | None:
    return round(sum(values) / len(values), 1) if values else None


def measure_personalize(
    settings: PersonalizeSettings, on_progress: OnProgress
) -> list[dict[str, Any]]:
    """Learn and draw what is not finished, write the files of all that is, return the rows.

    Args:
        settings: which of the cells to measure, how and where; pictures are shared out equally
            among the six concepts.
        on_progress: see ``apps.claims.run.OnProgress``.

    Raises:
        ValueError: a setting that cannot be carried out.
    """
    wanted = chosen(CELLS, settings.only)
    check_writable(settings.out)
    check_writable(settings.work)
    bench = Personal(settings)
    bench.pipe.set_progress_bar_config(disable=True)
    unfinished = [cell for cell in wanted if bench.find(cell) is None]
    for number, cell in enumerate(unfinished):
        before, total = number * settings.images, settings.images * len(unfinished)
        bench.measure(cell, partial(shown, on_progress, cell.name, before, total))
    finished = [(cell, found) for cell in CELLS if (found := bench.find(cell))]
    rows = [bench.row(cell, found) for cell, found in finished]
    about = {
        "command": f"diffusteer claims personalize --images {settings.images} "
        f"--seed {settings.seed}",
        "seed": settings.seed,
        "images": settings.images,
        "versions": versions(),
        "machine": machine(pick_device("auto").type),
        "intervals": INTERVALS,
    }
    write_results(settings.out / "claims-personalize.json", about, MEASURES, rows, COLUMNS)
    draw_figures(rows, settings.out)
    draw_pictures({cell.name: (cell.title, found) for cell, found in finished}, settings.out)
    return rows
