"""Draw what each guidance method does to the same noise: ``python -m apps.gallery``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from apps.errors import OneLineErrors, one_line_errors, say
from apps.generate import Call, Job, generate
from apps.pictures import Row, contact_sheet, write_png
from apps.pipelines import load_pipeline
from apps.shipped import shipped, shipped_names
from guidance import Rule, fit_linear_ag, guide, parse_rule

STEPS = 20
SCENES = (
    "a large striped red star on a blue background",
    "a small checkered yellow crescent on a purple background",
    "a large solid green ring on the left and a small dotted white heart on the right on a red "
    "background",
    "a small solid blue triangle on the left and a large striped pink circle on the right on a "
    "yellow background",
)
HEART = "a large heart on a white background"
RED_HEART = "a large red heart on a white background"
WEAK = "emblem-unet-weak"
TEXTURES = "LatentClassifier('emblem-evaluators/classifier')"
SCORE = "Reward('emblem-evaluators/reward')"


@dataclass(frozen=True)
class Picture:
    """Rows of pictures that differ in the rule alone.

    Attributes:
        name: the method, and the name of the file.
        rules: one rule a row, as text; names of shipped networks stand for their folders.
        prompts: one prompt a column, with the seeds 0, 1, ...
        model: shipped model.
        negatives: the pipeline's negative prompt of each row.
    """

    name: str
    rules: tuple[str, ...]
    prompts: tuple[str, ...] = SCENES * 2
    model: str = "emblem-unet"
    negatives: tuple[str | None, ...] = ()


PICTURES = (
    Picture("CFG", ("CFG(1)", "CFG(4)", "CFG(cosine(1, 8))", "CFG(8).between(0.2, 0.6)")),
    Picture("Rescale", ("CFG(12)", "CFG(12) + Rescale(0.7)")),
    Picture("APG", ("CFG(12)", "APG(12, norm_threshold=2.0)")),
    Picture("CFGZeroStar", ("CFG(7)", "CFGZeroStar(7)"), model="emblem-dit"),
    Picture("CFGPlusPlus", ("CFG(4)", "CFGPlusPlus(0.6)")),
    Picture(
        "DynamicCFG",
        ("CFG(4)", "CFG(12)", "DynamicCFG((1, 2, 4, 8, 12), Saturation(), default=12)"),
    ),
    Picture("MinorityPrompt", ("CFG(2)", "CFG(2) + MinorityPrompt()"), prompts=(HEART,) * 8),
    Picture(
        "BoostAndSkip",
        ("CFG(2)", "CFG(2) + BoostAndSkip(1.3)", "CFG(2) + BoostAndSkip(2)"),
        prompts=(HEART,) * 8,
    ),
    Picture("CADS", ("CFG(4)", "CFG(4) + CADS(strength=1.0)"), prompts=(HEART,) * 8),
    Picture(
        "PerpNeg",
        ("CFG(4)", "CFG(4)", f"PerpNeg(({RED_HEART!r},), weights=1.0, scale=4)"),
        prompts=(HEART,) * 8,
        negatives=(None, RED_HEART, None),
    ),
    Picture("SoftPAG", ("CFG(1)", "SoftPAG(3, strength=0.5)", "SoftPAG(3)", "CFG(4) + SoftPAG(3)")),
    Picture("PAG", ("CFG(1)", "PAG(3)", "PAG(10)")),
    Picture("SEG", ("CFG(1)", "SEG(3)", "CFG(4) + SEG(3)")),
    Picture(
        "SkipLayers", ("CFG(4)", "CFG(4) + SkipLayers(2.8).between(0.01, 0.2)"), model="emblem-dit"
    ),
    Picture(
        "AutoGuidance",
        ("CFG(1)", f"AutoGuidance(2, {WEAK!r})", f"CFG(3) + AutoGuidance(2, {WEAK!r})"),
    ),
    Picture(
        "GradientFreeClassifierGuidance",
        ("CFG(1)", f"GradientFreeClassifierGuidance(3, {TEXTURES})"),
        prompts=SCENES[:2] * 4,
    ),
    Picture(
        "ClassifierGuidance",
        (
            "CFG(2)",
            f"CFG(2) + ClassifierGuidance(0.1, {TEXTURES}, target=3)",
            f"CFG(2) + ClassifierGuidance(1, {TEXTURES}, target=3)",
        ),
        prompts=(HEART,) * 8,
    ),
    Picture(
        "LossGuidance",
        (
            "CFG(2)",
            f"CFG(2) + LossGuidance(0.1, {SCORE}, normalised=True)",
            f"CFG(2) + LossGuidance(0.3, {SCORE}, normalised=True)",
        ),
        prompts=(HEART,) * 8,
    ),
    Picture(
        "MinorityGuidance",
        (
            "CFG(1)",
            "MinorityGuidance(2, 'emblem-evaluators/minority-unet')",
            "MinorityGuidance(6, 'emblem-evaluators/minority-unet')",
        ),
        prompts=("",) * 8,
    ),
    Picture(
        "SelfGuidedMinority",
        (
            "CFG(1)",
            "SelfGuidedMinority(0.3, level=0.3, every=1)",
            "SelfGuidedMinority(1, level=0.3, every=1)",
        ),
        prompts=("",) * 8,
    ),
    Picture("AdaptiveGuidance", ("CFG(4)", "AdaptiveGuidance(4)", "AdaptiveGuidance(4, 0.99)")),
    Picture("LinearAG", ("CFG(4)", "LinearAG(4, '#')")),
)

app = typer.Typer(cls=OneLineErrors, add_completion=False)


def rows(picture: Picture) -> Iterator[Row]:
    """The rows of a picture, each under its rule and what it cost."""
    pipe = load_pipeline(str(shipped(picture.model)), device="cpu", dtype="float32")
    jobs = [Job(prompt, seed) for seed, prompt in enumerate(picture.prompts)]
    for index, text in enumerate(picture.rules):
        negative = picture.negatives[index] if picture.negatives else None
        call = Call(steps=STEPS, guided=True, negative_prompt=negative)
        rule = _rule(text, pipe)
        with guide(pipe, rule) as run:
            images = list(generate(pipe, jobs, call, batch_size=len(jobs)))
        label = text.replace("'#'", "its coefficients")
        label += f" with negative_prompt={negative!r}" if negative else ""
        yield Row(f"{label}: {run.report.nfe:g} evaluations", images)


def _rule(text: str, pipe: Any) -> Rule:
    if "'#'" not in text:
        for name in shipped_names():
            text = text.replace(repr(name), repr(str(shipped(name))))
        return parse_rule(text)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fit.json"
        generator = torch.Generator().manual_seed(1)
        return fit_linear_ag(pipe, list(SCENES) * 8, 4.0, STEPS, path, generator=generator)


@app.command()
def gallery(
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("docs/pictures"),
    only: Annotated[str | None, typer.Option(help="Draw this method alone.")] = None,
) -> None:
    """Draw one picture per guidance method on the shipped models, on the CPU with fixed seeds."""
    with one_line_errors(verbose=False):
        known = [picture.name for picture in PICTURES]
        if only is not None and only not in known:
            raise ValueError(f"--only must be one of {', '.join(known)}, found {only!r}")
        out.mkdir(parents=True, exist_ok=True)
        for picture in PICTURES:
            if only in (None, picture.name):
                path = out / f"{picture.name}.png"
                write_png(path, contact_sheet(list(rows(picture))))
                say(str(path))


if __name__ == "__main__":
    app()
