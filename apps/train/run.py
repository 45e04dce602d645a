"""One training from pictures to an evaluator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apps.evaluate.pictures.processes import Processes
from apps.evaluate.pictures.provenance import provenance
from apps.pipelines import load_pipeline, model_name
from apps.sample import check_writable
from apps.train.data import Data
from apps.train.finished import finished_scores
from apps.train.kinds import Kind, loss_over, scores_by_level
from apps.train.lesson import read_lesson, task_of
from apps.train.records import Plan, Records, origin_of, record
from apps.train.scorers import Scorer, load_scorer
from apps.train.settings import DEFAULT_SCORER, EvaluatorSettings
from apps.training.state import Recipe
from apps.training.trainer import train
from guidance.evaluators import EvaluatorConfig, build, load_evaluator, save_evaluator
from guidance.evaluators.network import Net


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        folder: of the evaluator.
        measure: what the scores are.
        scores: on held-out pictures by noise level, see ``scores_by_level``.
    """

    folder: Path
    measure: str
    scores: list[dict[str, Any]]


def run(settings: EvaluatorSettings, on_note: Callable[[str], None] | None = None) -> Trained:
    """Record predictions, train, measure, and write the evaluator to ``settings.out``.

    Args:
        settings: what to train.
        on_note: is told what to know of the data.

    Raises:
        ValueError, TypeError: a setting that cannot be carried out; nothing is written then, or
            only what the same command continues from.
    """
    note = on_note or (lambda text: None)
    work = settings.work or settings.out.with_name(f"{settings.out.name}.work")
    kept = settings.records or settings.out.parent / "records"
    for folder in (settings.out, work, kept):
        check_writable(folder)
    processes = Processes(settings.device)
    _check_batch(settings, processes)
    seen = _seen(settings, processes, kept, note)
    kind, config, data = seen.kind, seen.config, seen.data
    torch.manual_seed(settings.seed)
    net = build(config.kind, config.network)
    _train(settings, processes, net, seen, work)
    net.half().float()  # as it is kept
    scores = processes.once(lambda: seen.scores(net, settings.seed))
    about = {
        "command": settings.command,
        "model": model_name(settings.model),
        "data": {
            "pictures": len(data),
            "held_out": data.held_out,
            "records": len(seen.learned),
            "held_out_records": len(seen.held_out),
            "hash": data.pictures.fingerprint,
        },
        "measure": kind.measure,
        "scores": scores,
        **provenance(processes.device, processes.count),
    }
    if seen.scorer is not None:
        about["scorer"] = seen.scorer.name
    whole = EvaluatorConfig(**vars(config) | {"training": about})
    processes.once(lambda: save_evaluator(settings.out, net, whole))
    return Trained(settings.out, kind.measure, scores)


def measure(settings: EvaluatorSettings, folder: Path) -> Trained:
    """Measure an evaluator on held-out pictures as another model sees them.

    Args:
        settings: those of its training, with the other model.
        folder: of the evaluator.

    Raises:
        ValueError: it does not know the latents of that model, or is of another kind.
    """
    kept = settings.records or settings.out.parent / "records"
    processes = Processes(settings.device)
    seen = _seen(settings, processes, kept, lambda text: None)
    found = load_evaluator(folder)
    for name in ("kind", "space", "classes"):
        known, here = getattr(found.config, name), getattr(seen.config, name)
        if known != here:
            raise ValueError(f"{str(folder)!r} has {name} {known}, expected {here}")
    net = found.net.to(processes.device)
    scores = processes.once(lambda: seen.scores(net, settings.seed))
    return Trained(folder, seen.kind.measure, scores)


@dataclass(frozen=True)
class _Seen:
    """A lesson with what the model has to say to it."""

    data: Data
    kind: Kind
    config: EvaluatorConfig
    scorer: Scorer | None
    level: Tensor
    held_out: Tensor
    learned: Tensor
    key: Any

    def scores(self, net: Net, seed: int) -> list[dict[str, Any]]:
        """Scores of a network on what is held out."""
        return scores_by_level(self.kind, net.eval(), self.level, self.held_out, seed)


def _seen(
    settings: EvaluatorSettings, processes: Processes, kept: Path, note: Callable[[str], None]
) -> _Seen:
    """Read the pictures, load the model, and record its predictions or read those kept."""
    lesson = processes.once(lambda: read_lesson(settings))
    scorer, target, data = None, None, lesson.data
    if settings.kind == "reward":
        scorer = load_scorer(settings.scorer or DEFAULT_SCORER, str(processes.device))
    if lesson.classes and (without := sum(label is None for label in lesson.labels)):
        note(f"{without} of {len(data)} pictures have no label and are left out of the training")
    pipe = load_pipeline(
        settings.model, device=str(processes.device), dtype=settings.dtype, prompts=False
    )
    plan = Plan(
        steps=settings.sampling_steps,
        keep=settings.keep,
        scales=settings.scales,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    files = record(pipe, data, plan, processes, kept, origin_of(pipe))
    if scorer is not None:
        target = finished_scores(pipe, data, files, scorer, processes)
    records = Records(files)
    kind, config = task_of(settings, pipe, records, lesson, target)
    held_out = records.row[kind.records] < data.held_out
    return _Seen(
        data=data,
        kind=kind,
        config=config,
        scorer=scorer,
        level=records.level,
        held_out=kind.records[held_out],
        learned=kind.records[~held_out],
        key=[[path.name for path in files], lesson.labels, scorer and scorer.key],
    )


def _check_batch(settings: EvaluatorSettings, processes: Processes) -> None:
    if settings.training_batch % processes.count:
        raise ValueError(
            f"training_batch must be a multiple of the {processes.count} processes, found "
            f"{settings.training_batch}"
        )


def _train(
    settings: EvaluatorSettings, processes: Processes, net: Net, seen: _Seen, work: Path
) -> None:
    """Train the network; what was kept of the same training goes on."""
    recipe = Recipe(
        steps=settings.steps,
        batch=settings.training_batch,
        lr=settings.lr,
        warmup=min(100, settings.steps // 10),
        ema=0.99,
    )
    same = {
        "config": seen.config.to_dict(),
        "recipe": asdict(recipe),
        "seed": settings.seed,
        "scales": settings.scales,
        "learned": seen.key,
    }
    key = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]
    try:
        train(
            net,
            loss_over(seen.kind, seen.learned),
            recipe,
            len(seen.learned),
            work / f"{settings.kind}-{key}",
            seed=settings.seed,
            device=processes.device,
        )
    except FloatingPointError as error:
        raise ValueError(f"{error}; lower the learning rate with --lr") from error
