"""Measure the shipped models against the world's ground truth: ``assets/results/emblem.json``."""

import csv
import json
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPModel, CLIPTokenizer

from apps.emblem.pictures import to_tensor, tokenize
from apps.emblem.render import render
from apps.emblem.score import ATTRIBUTES, Scorer, Scores, labels
from apps.emblem.world import Scene, caption, sample_any, sample_scene

SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0)
STEPS = 25
PROMPTS = 512
BARS = {"classifier": 0.99, "vae": 0.97, "clip": 0.90, "unet": 0.90, "dit": 0.90}

DIT_SEQUENCE = 16
"""``max_sequence_length`` of the curve; the pipeline's default of 256 is measured beside it."""

Draw = Callable[[np.random.Generator], Scene]


def draw(number: int, seed: int, sample: Draw) -> tuple[Tensor, list[Scene]]:
    """Fresh renders (N, 3, 64, 64) in [-1, 1] and their scenes."""
    images, scenes = [], []
    for index in range(number):
        rng = np.random.default_rng([seed, index])
        scene = sample(rng)
        images.append(render(scene, rng))
        scenes.append(scene)
    return to_tensor(np.stack(images)), scenes


def _world_single(rng: np.random.Generator) -> Scene:
    return sample_scene(rng, count=1)


def _any_single(rng: np.random.Generator) -> Scene:
    return sample_any(rng, count=1)


def _any_pair(rng: np.random.Generator) -> Scene:
    return sample_any(rng, count=2)


def agreement(scorer: Scorer, images: Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
    """Share of pictures that read as their scene, per attribute and for all at once."""
    reading = scorer.read(images)
    truth = torch.tensor([labels(scene) for scene in scenes])
    found = torch.stack([p.argmax(dim=1) for p in reading.probabilities.values()], dim=1)
    right = (found == truth) | (truth < 0)
    known = (truth >= 0).any(dim=0)
    shares = {
        head: right[:, i][truth[:, i] >= 0].double().mean().item()
        for i, head in enumerate(reading.probabilities)
        if known[i]
    }
    return shares | {"all": right.all(dim=1).double().mean().item()}


def measure_classifier(scorer: Scorer, seed: int) -> dict[str, Any]:
    """Accuracy per attribute on clean renders of everything that can be drawn."""
    singles = agreement(scorer, *draw(4096, seed, _any_single))
    pairs = agreement(scorer, *draw(2048, seed + 1, _any_pair))
    attributes = [singles[f"first.{name}"] for name in ATTRIBUTES] + [singles["background"]]
    return {"worst_attribute": min(attributes), "one_emblem": singles, "two_emblems": pairs}


@torch.no_grad()
def measure_vae(vae: AutoencoderKL, scorer: Scorer, seed: int) -> dict[str, Any]:
    """Share of reconstructions in which the scorer reads every attribute right."""

    def kept(sample: Draw) -> dict[str, float]:
        images, scenes = draw(2048, seed, sample)
        decoded = [vae.decode(vae.encode(p).latent_dist.mean).sample for p in images.split(128)]
        return agreement(scorer, torch.cat(decoded).clamp(-1, 1), scenes)

    world = kept(_world_single)
    return {
        "all_attributes": world["all"],
        "one_emblem": world,
        "held_out_parts_and_styles": kept(_any_single),
        "two_emblems": kept(lambda rng: sample_scene(rng, count=2)),
    }


@torch.no_grad()
def measure_clip(
    clip: CLIPModel, tokenizer: CLIPTokenizer, seed: int, rounds: int = 20
) -> dict[str, Any]:
    """How often the right caption is nearest among 100 different ones, full captions."""
    hits = {"image_to_text": 0.0, "text_to_image": 0.0}
    for number in range(rounds):
        wanted: dict[str, Tensor] = {}
        index = 0
        while len(wanted) < 100:
            rng = np.random.default_rng([seed, number, index])
            scene = sample_scene(rng)
            wanted.setdefault(caption(scene), to_tensor(render(scene, rng)[None])[0])
            index += 1
        output = clip(
            input_ids=tokenize(tokenizer, list(wanted)),
            pixel_values=torch.stack(list(wanted.values())),
        )
        similar = (
            F.normalize(output.image_embeds, dim=-1) @ F.normalize(output.text_embeds, dim=-1).T
        )
        right = torch.arange(100)
        hits["image_to_text"] += (similar.argmax(dim=1) == right).double().mean().item() / rounds
        hits["text_to_image"] += (similar.argmax(dim=0) == right).double().mean().item() / rounds
    return hits


def generate(
    pipe: DiffusionPipeline,
    prompts: Sequence[str],
    scale: float,
    seed: int,
    batch: int = 64,
    **call: Any,
) -> Tensor:
    """Pictures (B, 3, 64, 64) in [-1, 1] of plain diffusers, rounded to 8 bits, one seed each."""
    pictures = []
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        seeds = range(seed + start, seed + start + len(part))
        pictures.append(
            pipe(
                part,
                guidance_scale=scale,
                num_inference_steps=STEPS,
                generator=[torch.Generator().manual_seed(s) for s in seeds],
                output_type="pt",
                **call,
            ).images
        )
    return torch.cat(pictures).mul(255).round().div(127.5).sub(1)


def kept_out_prompts(number: int, seed: int, count: int = 1) -> list[str]:
    """Captions that state everything, of emblems whose combinations training left out."""
    rngs = (np.random.default_rng([seed, index]) for index in range(number))
    return [caption(sample_scene(rng, held_out=True, count=count)) for rng in rngs]


def measure_pipeline(
    pipe: DiffusionPipeline, scorer: Scorer, seed: int, progress: Iterable[float], **call: Any
) -> dict[str, Any]:
    """Prompt accuracy over the guidance scales, and two-emblem scenes at the best one."""
    prompts = kept_out_prompts(PROMPTS, seed)
    curve: dict[str, Any] = {}
    for scale in progress:
        images = generate(pipe, prompts, scale, seed, **call)
        curve[f"{scale:g}"] = _row(scorer.score(images, prompts))
    best = max(curve, key=lambda scale: curve[scale]["prompt_accuracy"])
    pairs = kept_out_prompts(256, seed + 1, count=2)
    scene_images = generate(pipe, pairs, float(best), seed, **call)
    return {
        "best_scale": float(best),
        "prompt_accuracy": curve[best]["prompt_accuracy"],
        "unguided": curve["1"]["prompt_accuracy"],
        "curve": curve,
        "two_emblems": _row(scorer.score(scene_images, pairs)),
        "call": call,
    }


def _row(scores: Scores) -> dict[str, Any]:
    return asdict(scores)


def _provenance(seed: int, command: str) -> dict[str, Any]:
    packages = ("torch", "diffusers", "transformers", "accelerate", "numpy")
    return {
        "command": command,
        "seed": seed,
        "steps": STEPS,
        "prompts": PROMPTS,
        "versions": {name: version(name) for name in packages}
        | {"python": platform.python_version()},
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
    }


def measure(assets: Path, out: Path, seed: int, command: str) -> dict[str, Any]:
    """Measure every shipped model and write ``out`` (JSON), the curve as CSV and as a plot."""
    scorer = Scorer.from_pretrained(assets / "emblem-classifier")
    unet = DiffusionPipeline.from_pretrained(assets / "emblem-unet", torch_dtype=torch.float32)
    dit = DiffusionPipeline.from_pretrained(assets / "emblem-dit", torch_dtype=torch.float32)
    for pipe in (unet, dit):
        pipe.set_progress_bar_config(disable=True)
    clip = CLIPModel.from_pretrained(assets / "emblem-clip", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(assets / "emblem-clip")
    result = {
        "provenance": _provenance(seed, command),
        "classifier": measure_classifier(scorer, seed),
        "vae": measure_vae(unet.vae, scorer, seed),
        "clip": measure_clip(clip, tokenizer, seed),
        "unet": measure_pipeline(unet, scorer, seed, tqdm(SCALES, desc="emblem-unet")),
        "dit": measure_pipeline(
            dit, scorer, seed, tqdm(SCALES, desc="emblem-dit"), max_sequence_length=DIT_SEQUENCE
        ),
    }
    prompts = kept_out_prompts(PROMPTS, seed)
    default = generate(dit, prompts, result["dit"]["best_scale"], seed)
    result["dit"]["default_sequence_length"] = _row(scorer.score(default, prompts))
    reached = {
        "classifier": result["classifier"]["worst_attribute"],
        "vae": result["vae"]["all_attributes"],
        "clip": result["clip"]["image_to_text"],
        "unet": result["unet"]["prompt_accuracy"],
        "dit": result["dit"]["prompt_accuracy"],
    }
    result["bars"] = {
        name: {"bar": bar, "reached": reached[name], "met": reached[name] >= bar}
        for name, bar in BARS.items()
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    _write_curve(result, out.with_name("emblem-scales.csv"))
    plot_curve(result, out.with_name("emblem-scales.png"))
    return result


def _write_curve(result: dict[str, Any], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["model", "scale", "prompt_accuracy", "validity", *ATTRIBUTES, "background"]
        )
        for model in ("unet", "dit"):
            for scale, row in result[model]["curve"].items():
                parts = [row["attribute_accuracy"].get(n) for n in (*ATTRIBUTES, "background")]
                writer.writerow([model, scale, row["prompt_accuracy"], row["validity"], *parts])


def plot_curve(result: dict[str, Any], path: Path) -> None:
    """Prompt accuracy and validity over the guidance scale, one panel per model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axis, model in zip(figure.subplots(1, 2, sharey=True), ("unet", "dit"), strict=True):
        curve = result[model]["curve"]
        scales = [float(scale) for scale in curve]
        axis.plot(scales, [row["prompt_accuracy"] for row in curve.values()], "o-", label="prompt")
        for name in ("shape", "texture", "colour", "background"):
            values = [row["attribute_accuracy"][name] for row in curve.values()]
            axis.plot(scales, values, lw=1, alpha=0.7, label=name)
        axis.axhline(BARS[model], color="grey", ls="--", lw=1)
        axis.set(title=f"emblem-{model}", xlabel="guidance scale", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("share right")
    figure.axes[1].legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110)
