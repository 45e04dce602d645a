"""``diffusteer train minority``: a classifier of how rare a picture is to a model."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apps.errors import SayWarnings, one_line_errors, speaks
from apps.options import (
    AsJson,
    Device,
    Dtype,
    LearningRate,
    Model,
    NetworkDepth,
    NetworkWidth,
    Pictures,
    Seed,
    TrainingSteps,
    TrainingWork,
    Verbose,
)
from apps.quiet import quiet
from apps.settings import DEFAULT_MODEL
from apps.train.minority_settings import DISTANCES, MinoritySettings

if TYPE_CHECKING:
    from apps.train.minority import Trained


def minority(
    data: Annotated[Path, typer.Option(metavar="DIR", help="Pictures like those of the model.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the classifier.")],
    model: Model = DEFAULT_MODEL,
    classes: Annotated[
        int, typer.Option(help="Levels of rarity, of as many pictures each.")
    ] = MinoritySettings.classes,
    level: Annotated[
        float,
        typer.Option(help="Noise in which pictures are reconstructed, from 0, none, to 1."),
    ] = MinoritySettings.level,
    draws: Annotated[
        int, typer.Option(help="Reconstructions of each picture.")
    ] = MinoritySettings.draws,
    distance: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"One of {', '.join(DISTANCES)}: squared error of latents, of decoded pictures, "
            "or LPIPS of these.",
        ),
    ] = MinoritySettings.distance,
    captions: Annotated[
        bool,
        typer.Option("--captions", help="Score pictures under their captions, not without."),
    ] = False,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Where metadata.jsonl has a class, within which rarity is told; needed by models "
            "that draw classes.",
        ),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Where it has a number to compare scores with, such as rarity."
        ),
    ] = None,
    pictures: Pictures = None,
    steps: TrainingSteps = MinoritySettings.steps,
    training_batch: Annotated[
        int, typer.Option(help="Pictures of a training step.")
    ] = MinoritySettings.training_batch,
    lr: LearningRate = MinoritySettings.lr,
    width: NetworkWidth = MinoritySettings.width,
    depth: NetworkDepth = MinoritySettings.depth,
    seed: Seed = MinoritySettings.seed,
    batch_size: Annotated[
        int, typer.Option(help="Pictures scored at once.")
    ] = MinoritySettings.batch_size,
    scores: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where scores are kept. Default: scores beside out."),
    ] = None,
    work: TrainingWork = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Train a classifier of how rare a picture is to a model, for MinorityGuidance.

    Example, with the model that comes along and rendered pictures, whose true rarity is known:

        [bold]python -m apps.emblem render --n 2000 --seed 20 --out pictures[/bold]
        [bold]diffusteer train minority --data pictures --truth rarity --out out/minority[/bold]

    Pictures that the model reconstructs badly from noise are rare to it; the classifier learns to
    tell so from noisy pictures. One picture of ten is held out to measure on. Stop with Ctrl-C, the
    same command continues. Several processes share the work and give the same classifier:

        [bold]accelerate launch --num_processes 8 -m apps.cli train minority ...[/bold]
    """
    logging.getLogger("diffusteer").handlers = [SayWarnings()]
    with one_line_errors(verbose, "stopped; what is done is kept, the same command continues"):
        settings = MinoritySettings(
            data=data,
            out=out,
            model=model,
            classes=classes,
            level=level,
            draws=draws,
            distance=distance,
            captions=captions,
            label=label,
            truth=truth,
            pictures=pictures,
            steps=steps,
            training_batch=training_batch,
            lr=lr,
            width=width,
            depth=depth,
            seed=seed,
            batch_size=batch_size,
            scores=scores,
            work=work,
            device=device,
            dtype=dtype,
        )
        if not verbose:
            quiet()
        from apps.train.minority import run

        trained = run(settings)
        if speaks() and as_json:
            typer.echo(json.dumps(asdict(trained), default=str))
        elif speaks():
            typer.echo(f"{_table(trained)}\n\nwritten to {out}")


def _table(trained: Trained) -> str:
    """Held-out scores by noise level, and how rarity to the model goes with the truth."""
    chance = trained.chance
    lines = [
        "held out:",
        f"{'sigma / alpha':<14} {'pictures':>8}   right class   classes off",
        *(
            f"{_noise(*row['sigma']):<14} {row['count']:>8}   {row['accuracy']:>11.3f}   "
            f"{row['off']:>11.2f}"
            for row in trained.scores
        ),
        f"{'by chance':<23}   {chance['accuracy']:>11.3f}   {chance['off']:>11.2f}",
    ]
    if trained.truth is not None:
        low, high = trained.truth["interval"]
        rho = trained.truth["rank_correlation"]
        lines.append(f"rank correlation of score and truth: {rho:.3f} ({low:.3f} to {high:.3f})")
    return "\n".join(lines)


def _noise(low: float, high: float | None) -> str:
    return f"above {low:g}" if high is None else f"{low:g} to {high:g}"
