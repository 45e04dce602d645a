"""Measure the shipped models against the world's ground truth: ``assets/results/emblem.json``."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from apps.emblem.pictures import to_tensor, tokenize
from apps.emblem.render import render
from apps.emblem.score import ATTRIBUTES, Scorer, labels
from apps.emblem.world import Scene, caption, sample_any, sample_scene

SCALES = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 9.0, 12.0)
STEPS = 25
PROMPTS = 512
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


def _world_pair(rng: np.random.Generator) -> Scene:
    return sample_scene(rng, count=2)


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
    """Accuracy per attribute on clean renders: of all that can be drawn, and of the world alone."""
    everything = agreement(scorer, *draw(4096, seed, _any_single))
    world = agreement(scorer, *draw(4096, seed + 1, _world_single))
    return {
        "worst_attribute": _worst(everything),
        "worst_attribute_of_the_world": _worst(world),
        "one_emblem": everything,
        "one_emblem_of_the_world": world,
        "two_emblems": agreement(scorer, *draw(2048, seed + 2, _any_pair)),
        "two_emblems_of_the_world": agreement(scorer, *draw(2048, seed + 3, _world_pair)),
    }


def _worst(shares: dict[str, float]) -> float:
    return min(shares["background"], *(shares[f"first.{name}"] for name in ATTRIBUTES))


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
        "two_emblems": kept(_world_pair),
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
