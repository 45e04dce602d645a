"""Options that commands share, so that a flag means the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps.schedulers import DIFFUSION

Prompt = Annotated[
    list[str] | None, typer.Argument(metavar="PROMPT", help="What to draw; several are allowed.")
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Prompts to draw instead: one per line, or the text of each row of a .jsonl.",
    ),
]
Model = Annotated[
    str, typer.Option(help="Shipped model, folder of a diffusers pipeline, or hub id.")
]
NegativePrompt = Annotated[
    str | None, typer.Option(metavar="TEXT", help="What the pictures should not show.")
]
Steps = Annotated[int, typer.Option(help="Denoising steps.")]
BatchSize = Annotated[int, typer.Option(help="Pictures made at once.")]
Height = Annotated[int | None, typer.Option(help="In pixels; default: the model's own.")]
Width = Annotated[int | None, typer.Option(help="In pixels; default: the model's own.")]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="NAME", help=f"One of {', '.join(DIFFUSION)}; default: the model's."),
]
Learned = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="PATH",
        help="What was learned, as train writes it or others do; repeat for several.",
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Where to write; default: a new folder out/NNN."),
]
Pictures = Annotated[int | None, typer.Option(help="Use so many. Default: all.")]
TrainingSteps = Annotated[int, typer.Option(help="Of the training.")]
LearningRate = Annotated[float, typer.Option(help="Learning rate.")]
NetworkWidth = Annotated[int, typer.Option(help="Of the network.")]
NetworkDepth = Annotated[int, typer.Option(help="Of the network.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
TrainingWork = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where the training is kept. Default: out with .work."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, mps, cuda, cuda:1 ...")]
Dtype = Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")]
Metadata = Annotated[
    bool,
    typer.Option("--metadata/--no-metadata", help="Write the settings into the pictures."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Show tracebacks and what the libraries say.")
]
