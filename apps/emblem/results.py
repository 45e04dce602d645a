"""The results file of the shipped models: what was measured, how, and whether it meets its bar."""

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from tqdm import tqdm
from transformers import CLIPModel, CLIPTokenizer

from apps.emblem.figures import draw_corrections, plot_curves, write_curves
from apps.emblem.measure import (
    PROMPTS,
    SCALES,
    generate,
    kept_out_prompts,
    measure_classifier,
    measure_clip,
    measure_pipeline,
    measure_vae,
)
from apps.emblem.score import Scorer, right
from apps.emblem.world import parse
from guidance import CFG, guide

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
        pipe, scorer = self._pipeline("emblem-unet"), self._scorer()
        self._picture(pipe, scorer)
        bar = tqdm(SCALES, desc="emblem-unet")
        return measure_pipeline(pipe, scorer, self.seed, bar)

    def _picture(self, pipe: DiffusionPipeline, scorer: Scorer, scale: float = 4.0) -> None:
        """Draw the first prompts that plain sampling gets wrong, and their guided pictures."""
        prompts = kept_out_prompts(PROMPTS // 4, self.seed)
        plain = generate(pipe, prompts, 1.0, self.seed)
        with guide(pipe, CFG(scale)):
            guided = generate(pipe, prompts, scale, self.seed)
        scenes = [parse(prompt) for prompt in prompts]
        wrong = [i for i, ok in enumerate(right(scorer.read(plain), scenes)) if not ok][:8]
        path = self.out.with_name("plain-and-guided.png")
        draw_corrections(plain[wrong], guided[wrong], [prompts[i] for i in wrong], scale, path)

    def dit(self) -> dict[str, Any]:
        """Prompt accuracy of emblem-dit; a quarter also at the pipeline's own sequence length."""
        pipe, scorer = self._pipeline("emblem-dit"), self._scorer()
        bar = tqdm(SCALES, desc="emblem-dit")
        result = measure_pipeline(pipe, scorer, self.seed, bar, max_sequence_length=DIT_SEQUENCE)
        prompts = kept_out_prompts(PROMPTS // 4, self.seed)
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
