"""``python -m apps.emblem``: render the world, train its models, measure them."""

from pathlib import Path
from typing import Annotated

import typer

from apps.errors import OneLineErrors, one_line_errors

app = typer.Typer(
    cls=OneLineErrors,
    help="The Emblem world: render pictures, train the shipped models, measure them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]


@app.command("render")
def render_command(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Number of pictures.")] = 1000,
    seed: Seed = 0,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Captions that state everything; N pictures of each."),
    ] = None,
) -> None:
    """Write an image folder with metadata.jsonl (file_name, text, scene, rarity).

    Example: python -m apps.emblem render --out pictures --n 1000 --seed 0
    """
    from apps.emblem.data import export, export_captions
    from apps.settings import read_prompts

    with one_line_errors(verbose=False):
        if prompts is None:
            export(out, n, seed)
        else:
            export_captions(out, read_prompts(prompts), n, seed)
    typer.echo(f"pictures and metadata.jsonl are in {out}")


@app.command("photos")
def photos_command(
    concept: Annotated[
        str, typer.Option(metavar="PHRASE", help='What stays, such as "a striped green ring".')
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Number of pictures.")] = 6,
    seed: Seed = 0,
) -> None:
    """Write photos of one personal concept, with metadata.jsonl (file_name, text, scene).

    Example: python -m apps.emblem photos --concept "a striped green ring" --out ring
    """
    from apps.emblem.data import export_photos

    with one_line_errors(verbose=False):
        export_photos(out, concept, n, seed)
    typer.echo(f"{n} pictures and metadata.jsonl are in {out}")


@app.command()
def train(
    stages: Annotated[
        list[str], typer.Argument(help="vae, clip, classifier, unet, dit; or all, in that order.")
    ],
    run: Annotated[Path, typer.Option(help="Folder of checkpoints, logs and samples.")] = Path(
        "runs/emblem"
    ),
    out: Annotated[Path, typer.Option(help="Folder that receives the models.")] = Path("assets"),
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Fewer steps, for a trial.")] = None,
    pictures: Annotated[
        int | None, typer.Option(min=64, help="Fewer training pictures, for a trial.")
    ] = None,
) -> None:
    """Train shipped models from nothing; the same command continues a run that was stopped.

    Example: python -m apps.emblem train all
    """
    from apps.emblem.stages import Stages

    known = Stages(run, out, seed, steps, pictures).all()
    with one_line_errors(verbose=False, stopped="stopped; the same command continues"):
        for name in _chosen("stage", stages, list(known)):
            known[name]()


@app.command()
def measure(
    parts: Annotated[list[str], typer.Argument(help="classifier, vae, clip, unet, dit; or all.")],
    assets: Annotated[Path, typer.Option(help="Folder of the models.")] = Path("assets"),
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path(
        "assets/results/emblem.json"
    ),
    seed: Seed = 0,
) -> None:
    """Measure the models against the world's ground truth.

    Example: python -m apps.emblem measure all
    """
    import json

    from apps.emblem.figures import markdown_table
    from apps.emblem.results import BARS, Measurements

    measurements = Measurements(assets, out, seed)
    with one_line_errors(verbose=False, stopped="stopped; measured parts are kept"):
        for name in _chosen("part", parts, list(BARS)):
            measurements.measure(name)
    typer.echo(markdown_table(json.loads(out.read_text(encoding="utf-8"))))
    typer.echo(f"written to {out}")


def _chosen(kind: str, names: list[str], known: list[str]) -> list[str]:
    """The names, or all known ones for ``all``."""
    if names == ["all"]:
        return known
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{kind} is {unknown[0]!r}; expected all or any of {', '.join(known)}")
    return names


if __name__ == "__main__":
    app()
