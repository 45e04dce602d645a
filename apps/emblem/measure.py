"""Measure the shipped models against the world's ground truth: ``assets/results/emblem.json``."""

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

from apps.emblem.figures import draw_plain_and_guided, plot_curves, write_curves
from apps.emblem.pictures import to_tensor, tokenize
from apps.emblem.render import render
from apps.emblem.score import ATTRIBUTES, Scorer, labels
from apps.emblem.world import Scene, caption, sample_any, sample_scene

SCALES = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 9.0, 12.0)
STEPS = 25
PROMPTS = 512
HEADLINES = {
    "classifier": "worst_attribute",
    "vae": "all_attributes",
    "clip": "image_to_text",
    "unet": "prompt_accuracy",
    "dit": "prompt_accuracy",
}
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
        curve[f"{scale:g}"] = asdict(scorer.score(images, prompts))
    best = max(curve, key=lambda scale: curve[scale]["prompt_accuracy"])
    pairs = kept_out_prompts(256, seed + 1, count=2)
    scene_images = generate(pipe, pairs, float(best), seed, **call)
    return {
        "prompts": PROMPTS,
        "steps": STEPS,
        "best_scale": float(best),
        "prompt_accuracy": curve[best]["prompt_accuracy"],
        "unguided": curve["1"]["prompt_accuracy"],
        "curve": curve,
        "two_emblems": asdict(scorer.score(scene_images, pairs)),
        "call": call,
    }


def _provenance(part: str, seed: int) -> dict[str, Any]:
    packages = ("torch", "diffusers", "transformers", "numpy")
    return {
        "command": f"python -m apps.emblem measure {part} --seed {seed}",
        "seed": seed,
        "versions": {name: version(name) for name in packages}
        | {"python": platform.python_version()},
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
    }


class Measurements:
    """Measures the models of a folder part by part into one JSON file.

    Args:
        assets: folder of the shipped models.
        out: JSON file; parts that it holds already are kept until they are measured again.
        seed: seed of scenes, prompts and noise.
    """

    def __init__(self, assets: Path, out: Path, seed: int) -> None:
        self.assets, self.out, self.seed = assets, out, seed

    def _folder(self, name: str) -> Path:
        path = self.assets / name
        if not path.is_dir():
            raise ValueError(f"{path} is no folder; train it or name its parent with --assets")
        return path

    def _scorer(self) -> Scorer:
        return Scorer.from_pretrained(self._folder("emblem-classifier"))

    def _pipeline(self, name: str) -> DiffusionPipeline:
        pipe = DiffusionPipeline.from_pretrained(self._folder(name))
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def classifier(self) -> dict[str, Any]:
        """The scorer on clean renders."""
        return measure_classifier(self._scorer(), self.seed)

    def vae(self) -> dict[str, Any]:
        """The autoencoder, as the scorer sees its reconstructions."""
        return measure_vae(self._pipeline("emblem-unet").vae, self._scorer(), self.seed)

    def clip(self) -> dict[str, Any]:
        """Retrieval with emblem-clip."""
        path = self._folder("emblem-clip")
        tokenizer = CLIPTokenizer.from_pretrained(path)
        return measure_clip(CLIPModel.from_pretrained(path), tokenizer, self.seed)

    def unet(self) -> dict[str, Any]:
        """Prompt accuracy of emblem-unet, and the comparison picture."""
        pipe = self._pipeline("emblem-unet")
        draw_plain_and_guided(pipe, self.out.with_name("plain-and-guided.png"))
        bar = tqdm(SCALES, desc="emblem-unet")
        return measure_pipeline(pipe, self._scorer(), self.seed, bar)

    def dit(self) -> dict[str, Any]:
        """Prompt accuracy of emblem-dit; at the best scale also with the pipeline's defaults."""
        pipe, scorer = self._pipeline("emblem-dit"), self._scorer()
        bar = tqdm(SCALES, desc="emblem-dit")
        result = measure_pipeline(pipe, scorer, self.seed, bar, max_sequence_length=DIT_SEQUENCE)
        prompts = kept_out_prompts(PROMPTS, self.seed)
        images = generate(pipe, prompts, result["best_scale"], self.seed)
        return result | {"default_sequence_length": asdict(scorer.score(images, prompts))}

    def measure(self, part: str) -> dict[str, Any]:
        """Measure one part, put it into the file, and return its bar, value and verdict."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        found = getattr(self, part)()
        results = json.loads(self.out.read_text()) if self.out.exists() else {}
        reached, bar = found[HEADLINES[part]], BARS[part]
        verdict = {"bar": bar, "reached": reached, "met": reached >= bar}
        results[part] = {"verdict": verdict, "provenance": _provenance(part, self.seed)} | found
        self.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        curves = {name: results[name]["curve"] for name in ("unet", "dit") if name in results}
        if curves:
            write_curves(curves, self.out.with_name("emblem-scales.csv"))
            plot_curves(curves, self.out.with_name("emblem-scales.png"))
        return verdict
