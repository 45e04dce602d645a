"""Files that show what was measured: the curve as CSV and plot, and a comparison picture."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from matplotlib.figure import Figure

from apps.emblem.score import ATTRIBUTES
from guidance import CFG, guide

SHOWN = (
    "a large striped red star on a blue background",
    "a small checkered yellow heart on a purple background",
    "a large dotted green ring on an orange background",
    "a solid white crescent on a pink background",
)
"""Prompts of the comparison picture."""


Curves = dict[str, dict[str, Any]]
"""Per model and guidance scale, the scores."""


MEASURED = {
    "classifier": "classifier: worst attribute, fresh renders of all that can be drawn",
    "vae": "autoencoder: reconstructions that keep every attribute",
    "clip": "emblem-clip: right caption among 100",
    "unet": "emblem-unet: every stated attribute right, scale {best_scale:g}",
    "dit": "emblem-dit: every stated attribute right, scale {best_scale:g}",
}


def markdown_table(results: dict[str, Any]) -> str:
    """The measured parts with their bars, as the README shows them."""
    rows = ["| measured | reached | bar |", "|---|---|---|"]
    for part, text in MEASURED.items():
        if part in results:
            verdict = results[part]["verdict"]
            mark = "met" if verdict["met"] else "missed"
            reached, bar = f"{verdict['reached']:.1%}", f"{verdict['bar']:.0%}, {mark}"
            rows.append(f"| {text.format(**results[part])} | {reached} | {bar} |")
            if part == "classifier":
                world = results[part]["worst_attribute_of_the_world"]
                rows.append(f"| classifier, without held-out parts and styles | {world:.1%} | |")
            if "unguided" in results[part]:
                rows.append(
                    f"| emblem-{part}, without guidance | {results[part]['unguided']:.1%} | |"
                )
                pairs = results[part]["two_emblems"]["prompt_accuracy"]
                rows.append(f"| emblem-{part}, scenes of two emblems | {pairs:.1%} | |")
    return "\n".join(rows)


def write_curves(curves: Curves, path: Path) -> None:
    """Prompt and attribute accuracy per model and guidance scale, as CSV."""
    attributes = (*ATTRIBUTES, "background")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "scale", "prompt_accuracy", "validity", *attributes])
        for model, curve in curves.items():
            for scale, row in curve.items():
                shares = [row["attribute_accuracy"].get(name) for name in attributes]
                writer.writerow([model, scale, row["prompt_accuracy"], row["validity"], *shares])


def plot_curves(curves: Curves, path: Path) -> None:
    """Prompt and attribute accuracy over the guidance scale, one panel per model."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axis, (model, curve) in zip(panels, curves.items(), strict=True):
        scales = [float(scale) for scale in curve]
        whole = [row["prompt_accuracy"] for row in curve.values()]
        axis.plot(scales, whole, "o-", color="black", label="whole prompt")
        for name in ("shape", "texture", "colour", "size", "background"):
            shares = [row["attribute_accuracy"][name] for row in curve.values()]
            axis.plot(scales, shares, lw=1.2, alpha=0.8, label=name)
        axis.set(title=f"emblem-{model}", xlabel="guidance scale", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("share right")
    figure.axes[-1].legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110)


def draw_plain_and_guided(pipe: StableDiffusionPipeline, path: Path, scale: float = 5.0) -> None:
    """Four seeds of each prompt without guidance and, from the same noise, with ``CFG(scale)``."""

    def row(prompt: str, **call: Any) -> np.ndarray:
        generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
        images = pipe(
            [prompt] * 4, num_inference_steps=25, generator=generators, output_type="np", **call
        ).images
        large = images.repeat(2, axis=1).repeat(2, axis=2)
        return np.pad(large, ((0, 0), (4, 4), (4, 4), (0, 0)), constant_values=1.0)

    figure = Figure(figsize=(11, 6.4), layout="constrained")
    panels = figure.subplots(len(SHOWN), 2)
    for (left, right), prompt in zip(panels, SHOWN, strict=True):
        left.imshow(np.concatenate(list(row(prompt, guidance_scale=1.0)), axis=1))
        with guide(pipe, CFG(scale)):
            right.imshow(np.concatenate(list(row(prompt, guidance_scale=scale)), axis=1))
        left.set_title(prompt, fontsize=9, loc="left")
        for axis in (left, right):
            axis.axis("off")
    panels[0][0].set_title(f"plain\n{SHOWN[0]}", fontsize=9, loc="left")
    panels[0][1].set_title(f"guided, CFG({scale:g}), same noise\n", fontsize=9, loc="left")
    figure.savefig(path, dpi=100)
