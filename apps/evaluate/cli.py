"""``diffusteer evaluate``: scores of pictures that say how they were made."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apps.errors import OneLineErrors, SayWarnings, one_line_errors, speaks
from apps.evaluate.options import (
    CACHE,
    BatchSize,
    Cache,
    NoCache,
    SkipBad,
    check_out,
    evaluation,
    spoken,
)
from apps.evaluate.settings import EvaluateSettings
from apps.options import AsJson, Device, Verbose
from apps.progress import progress_bar

if TYPE_CHECKING:
    from apps.evaluate.result import Result

Evaluation = Callable[[EvaluateSettings], "Result"]

app = typer.Typer(
    cls=OneLineErrors,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Generated = Annotated[Path, typer.Argument(metavar="GENERATED", help="Folder of pictures.")]
Prompts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Prompts: .jsonl rows with file_name and text, or one prompt a line for the pictures "
        "by name. Default: metadata.jsonl, text files beside the pictures, or their PNG text.",
    ),
]
Clip = Annotated[str, typer.Option("--extractor", help="emblem-clip or clip:ID_OR_PATH.")]


@app.callback(invoke_without_command=True)
def evaluate(
    context: typer.Context,
    compared: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", metavar="A.json B.json", help="Compare two results."),
    ] = None,
) -> None:
    """Score pictures, and say how: each result is a JSON file that names all that decides it.

    Example, on pictures of the model that comes along:

        [bold]diffusteer evaluate emblem out/001[/bold]

    Several processes share the work of a command:

        [bold]accelerate launch --num_processes 8 -m apps.evaluate distribution A B[/bold]
    """
    if compared is not None:
        with one_line_errors(verbose=False):
            from apps.evaluate.comparison import compare, markdown_table
            from apps.evaluate.result import Result

            typer.echo(markdown_table(compare(*map(Result.read, compared))))
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
@evaluation
def distribution(
    generated: Generated,
    reference: Annotated[
        Path,
        typer.Argument(
            metavar="REFERENCE", help="Folder of real pictures, or file of their statistics."
        ),
    ],
    extractor: Annotated[
        str, typer.Option(help="emblem-classifier, inception, dino:MODEL, clip:MODEL ...")
    ] = "emblem-classifier",
    metric: Annotated[
        list[str] | None,
        typer.Option(help="fid, kid, prdc or vendi; repeat for several. Default: all."),
    ] = None,
) -> Evaluation:
    """Compare with real pictures: FID, KID, precision, recall, density, coverage, Vendi score.

    Example: [bold]diffusteer evaluate distribution out/001 runs/real[/bold]
    """
    from apps.evaluate.protocols.distribution import distribution as measure

    return partial(measure, generated, reference, extractor, metric)


@app.command()
def statistics(
    pictures: Annotated[Path, typer.Argument(metavar="PICTURES", help="Folder of real pictures.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Safetensors file to write.")],
    extractor: Annotated[
        str, typer.Option(help="emblem-classifier, inception, dino:MODEL, clip:MODEL ...")
    ] = "emblem-classifier",
    device: Device = "auto",
    batch_size: BatchSize = 32,
    cache: Cache = CACHE,
    no_cache: NoCache = False,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Keep the mean and covariance of real pictures, to serve distribution instead of them.

    Example: [bold]diffusteer evaluate statistics runs/real real.safetensors[/bold]
    """
    with spoken(verbose):
        with progress_bar() as show:
            from apps.evaluate.protocols.distribution import statistics as write

            settings = EvaluateSettings(
                device=device,
                batch_size=batch_size,
                cache=None if no_cache else cache,
                skip_bad=skip_bad,
                on_progress=show,
            )
            check_out(file)
            write(pictures, file, extractor, settings)
        if speaks():
            _say({"file": str(file), "extractor": extractor}, f"written to {file}", as_json)


@app.command()
@evaluation
def prompts(
    generated: Generated,
    prompts: Prompts = None,
    extractor: Clip = "emblem-clip",
    reward: Annotated[
        list[str] | None,
        typer.Option(help="Also pickscore, imagereward or hpsv2; repeat for several."),
    ] = None,
) -> Evaluation:
    """Compare with prompts: CLIP-T, CLIPScore, and preference models.

    Example: [bold]diffusteer evaluate prompts out/001[/bold]
    """
    from apps.evaluate.protocols.prompts import prompts as measure

    return partial(measure, generated, prompts, extractor, tuple(reward or ()))


@app.command()
@evaluation
def subject(
    generated: Generated,
    real: Annotated[
        Path,
        typer.Argument(
            metavar="REAL", help="Real pictures; on both sides a folder for each subject."
        ),
    ],
    prompts: Prompts = None,
    token: Annotated[
        str | None, typer.Option(help="Placeholder token, which is taken out of the prompts.")
    ] = None,
    extractor: Clip = "emblem-clip",
    identity: Annotated[
        list[str] | None,
        typer.Option(
            help="Extractors to compare pictures with, such as dino:facebook/dino-vits16; repeat "
            "for several. Default: emblem-classifier."
        ),
    ] = None,
) -> Evaluation:
    """Compare a personalised model with its subjects: CLIP-I, DINO, CLIP-T, and their ceiling.

    Example: [bold]diffusteer evaluate subject runs/generated runs/photos --token sks[/bold]
    """
    from apps.evaluate.protocols.subject import subject as measure

    chosen = tuple(identity or ("emblem-classifier",))
    return partial(measure, generated, real, prompts, token, extractor, chosen)


@app.command()
def dreambench(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    token: Annotated[
        str, typer.Option(help="Placeholder token that stands for the subject.")
    ] = "sks",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Write the prompts of DreamBench, a file of 25 for each of its 30 subjects.

    Example: [bold]diffusteer evaluate dreambench prompts[/bold]

    Then make 4 pictures of each prompt with the model of that subject, and compare with its photos:

        [bold]diffusteer sample --prompts prompts/dog6.txt --model runs/dog6 --out made/dog6[/bold]

        [bold]diffusteer evaluate subject made photos --token sks[/bold]
    """
    with one_line_errors(verbose):
        from apps.evaluate.protocols.dreambench import SUBJECTS, write_prompts

        write_prompts(out, token)
        made = {"folder": str(out), "subjects": [*SUBJECTS]}
        _say(made, f"prompts of {len(SUBJECTS)} subjects are in {out}", as_json)


@app.command()
@evaluation
def multi(
    generated: Generated,
    references: Annotated[
        Path,
        typer.Argument(metavar="REFERENCES", help="A folder of pictures for each concept's label."),
    ],
    prompts: Prompts = None,
    detector: Annotated[str, typer.Option(help="emblem or owlvit:ID_OR_PATH.")] = "emblem",
    extractor: Clip = "emblem-clip",
    full_prompt: Annotated[
        bool,
        typer.Option("--full-prompt", help="TI-CLIP with the whole prompt, not the background's."),
    ] = False,
    margin: Annotated[
        float, typer.Option(help="How far crops reach beyond their boxes, in longer sides.")
    ] = 0.0,
) -> Evaluation:
    """Compare pictures of several concepts with all of them: CP-CLIP and TI-CLIP.

    Example: [bold]diffusteer evaluate multi runs/pairs runs/concepts[/bold]
    """
    from apps.evaluate.protocols.multi import multi as measure

    return partial(
        measure, generated, references, prompts, detector, extractor, full_prompt, margin
    )


@app.command()
@evaluation
def emblem(generated: Generated, prompts: Prompts = None) -> Evaluation:
    """Compare with the truth of the Emblem world: accuracy, validity, rarity, diversity.

    Example: [bold]diffusteer evaluate emblem out/001[/bold]
    """
    from apps.evaluate.protocols.emblem import emblem as measure

    return partial(measure, generated, prompts)


@app.command()
def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULT.json", help="Results of evaluations.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to.")],
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Put results side by side: tables, plots, and the best and worst pictures.

    Example: [bold]diffusteer evaluate report out/*.json --out out/report[/bold]

    Results of one protocol with equal settings share a table; others are kept apart.
    """
    logging.getLogger("diffusteer").handlers = [SayWarnings()]
    with one_line_errors(verbose, "stopped; the report is not complete"):
        from apps.evaluate.reporting.report import report as write

        page = write(results, out)
        _say({"file": str(page)}, f"written to {page}", as_json)


def _say(made: Mapping[str, Any], text: str, as_json: bool) -> None:
    """What was written: as JSON, or in words."""
    typer.echo(json.dumps(made, ensure_ascii=False) if as_json else text)
