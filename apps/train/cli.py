"""``diffusteer train``: personal words and concepts, and networks that guidance asks."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apps.errors import OneLineErrors, SayWarnings, one_line_errors, say, speaks
from apps.options import (
    AsJson,
    BatchSize,
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
from apps.train.covariance import covariance
from apps.train.linear_ag import linear_ag
from apps.train.masks_cli import masks
from apps.train.minority_cli import minority
from apps.train.personalize import add_to
from apps.train.settings import KINDS, EvaluatorSettings

if TYPE_CHECKING:
    from apps.train.run import Trained

app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Train words and concepts from photos, and the networks that guidance asks.",
)


@app.callback()
def train() -> None:
    """Train words and concepts from photos, and the networks that guidance asks."""


app.command()(minority)
app.command()(covariance)
app.command()(linear_ag)
app.command()(masks)
add_to(app)


@app.command()
def evaluator(
    kind: Annotated[str, typer.Option(metavar="KIND", help=f"One of {', '.join(KINDS)}.")],
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Pictures, with their captions in metadata.jsonl or text files."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the evaluator.")],
    model: Model = DEFAULT_MODEL,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Of a classifier: where metadata.jsonl has the class, such as "
            "scene.emblems.0.texture. Default: the folder of each picture.",
        ),
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of a reward: clip, clip:ID_OR_PATH, pickscore, imagereward, hpsv2, or "
            "module:function of your own. Default: clip.",
        ),
    ] = None,
    pictures: Pictures = None,
    sampling_steps: Annotated[
        int, typer.Option(help="Most denoising steps of a recorded run.")
    ] = EvaluatorSettings.sampling_steps,
    keep: Annotated[
        int, typer.Option(help="Steps of a run that are recorded.")
    ] = EvaluatorSettings.keep,
    scales: Annotated[
        tuple[float, float],
        typer.Option(help="Lowest and highest guidance scale of the recorded runs."),
    ] = EvaluatorSettings.scales,
    steps: TrainingSteps = EvaluatorSettings.steps,
    training_batch: Annotated[
        int, typer.Option(help="Records of a training step.")
    ] = EvaluatorSettings.training_batch,
    lr: LearningRate = EvaluatorSettings.lr,
    width: NetworkWidth = EvaluatorSettings.width,
    depth: NetworkDepth = EvaluatorSettings.depth,
    seed: Seed = EvaluatorSettings.seed,
    batch_size: BatchSize = EvaluatorSettings.batch_size,
    records: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where predictions are kept, for other evaluators too. Default: records beside "
            "out.",
        ),
    ] = None,
    work: TrainingWork = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Train an evaluator that judges what a model predicts, in its latents and at any noise.

    Example, with the model that comes along and rendered pictures:

        [bold]python -m apps.emblem render --n 2000 --seed 20 --out pictures[/bold]
        [bold]diffusteer train evaluator --kind alignment --data pictures --out out/alignment[/bold]

    The model first draws the captions and looks at the pictures in noise; what it predicts is kept
    and serves every kind. One picture of ten is held out, and the evaluator's score on those is
    shown by noise level. Stop with Ctrl-C, the same command continues. Several processes share the
    work and give the same evaluator:

        [bold]accelerate launch --num_processes 8 -m apps.cli train evaluator ...[/bold]
    """
    logging.getLogger("diffusteer").handlers = [SayWarnings()]
    with one_line_errors(verbose, "stopped; what is done is kept, the same command continues"):
        settings = EvaluatorSettings(
            kind=kind,
            data=data,
            out=out,
            model=model,
            label=label,
            scorer=scorer,
            pictures=pictures,
            sampling_steps=sampling_steps,
            keep=keep,
            scales=scales,
            steps=steps,
            training_batch=training_batch,
            lr=lr,
            width=width,
            depth=depth,
            seed=seed,
            batch_size=batch_size,
            records=records,
            work=work,
            device=device,
            dtype=dtype,
        )
        if not verbose:
            quiet()
        from apps.train.run import run

        trained = run(settings, say)
        if speaks() and as_json:
            typer.echo(json.dumps(asdict(trained), default=str))
        elif speaks():
            typer.echo(f"{_table(trained)}\n\nwritten to {out}")


def _table(trained: Trained) -> str:
    """Held-out scores by noise level."""
    lines = [f"held out, {trained.measure}:", f"{'sigma / alpha':<14} {'records':>7}   score"]
    for row in trained.scores:
        low, high = row["sigma"]
        noise = f"above {low:g}" if high is None else f"{low:g} to {high:g}"
        score = "-" if row["score"] is None else f"{row['score']:.3f}"
        lines.append(f"{noise:<14} {row['count']:>7}   {score}")
    return "\n".join(lines)
