"""Files that show what was measured: the curve as CSV and plot, and a comparison picture."""

import csv
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from apps.emblem.score import ATTRIBUTES

MEASURED = {
    "classifier": "classifier: worst attribute, fresh renders of all that can be drawn",
    "vae": "autoencoder: reconstructions that keep every attribute",
    "clip": "emblem-clip: right caption among 100",
    "unet": "emblem-unet: every stated attribute right, scale {best_scale:g}",
    "dit": "emblem-dit: every stated attribute right, scale {best_scale:g}",
}


def markdown_table(results: dict[str, Any]) -> str:
    """The measured parts with their bars, as the documentation shows them."""
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


Curves = dict[str, dict[str, Any]]
"""Per model and guidance scale, the scores."""


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
    lowest = min(row["prompt_accuracy"] for curve in curves.values() for row in curve.values())
    bottom = math.floor(10 * lowest) / 10
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axis, (model, curve) in zip(panels, curves.items(), strict=True):
        scales = [float(scale) for scale in curve]
        whole = [row["prompt_accuracy"] for row in curve.values()]
        axis.plot(scales, whole, "o-", color="black", label="whole prompt")
        for name in ("shape", "texture", "colour", "size", "background"):
            shares = [row["attribute_accuracy"][name] for row in curve.values()]
            axis.plot(scales, shares, lw=1.2, alpha=0.8, label=name)
        axis.set(title=f"emblem-{model}", xlabel="guidance scale", ylim=(bottom, 1.01))
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("share right")
    figure.axes[-1].legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110)


def draw_corrections(
    plain: Tensor, guided: Tensor, prompts: Sequence[str], scale: float, path: Path
) -> None:
    """Pictures (B, 3, 64, 64) in [-1, 1] in two rows over their prompts: plain, then guided."""
    figure = Figure(figsize=(1.7 * len(prompts), 4.2), layout="constrained")
    rows = figure.subplots(2, len(prompts), squeeze=False)
    for row, images in zip(rows, (plain, guided), strict=True):
        for axis, image in zip(row, images, strict=True):
            axis.imshow(image.add(1).div(2).permute(1, 2, 0).numpy())
            axis.set(xticks=[], yticks=[])
    rows[0][0].set_ylabel("plain")
    rows[1][0].set_ylabel(f"CFG({scale:g})")
    for axis, prompt in zip(rows[1], prompts, strict=True):
        axis.set_xlabel(textwrap.fill(prompt, 20), fontsize=9)
    figure.savefig(path, dpi=80)
