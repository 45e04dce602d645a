"""The shipped models against the ground truth, on small samples, and the results as published."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer, pipeline

from apps.emblem.figures import markdown_table
from apps.emblem.measure import agreement, draw, measure_clip
from apps.emblem.render import render
from apps.emblem.results import BARS, HEADLINES
from apps.emblem.score import Scorer
from apps.emblem.world import Emblem, Scene, sample_scene
from apps.shipped import shipped

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "assets" / "results" / "emblem.json"


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.from_pretrained(shipped("emblem-classifier"))


def test_scorer_reads_fresh_renders(scorer: Scorer) -> None:
    assert agreement(scorer, *draw(400, 11, lambda rng: sample_scene(rng, count=1)))["all"] >= 0.98


def test_scorer_tells_noise_from_emblems(scorer: Scorer) -> None:
    torch.manual_seed(0)
    noise = scorer.read(torch.rand(50, 3, 64, 64) * 2 - 1)
    clean = scorer.read(draw(50, 12, sample_scene)[0])
    assert not noise.recognisable().any() and clean.recognisable().all()


def test_plain_transformers_reads_a_picture() -> None:
    scene = Scene((Emblem("heart", "green", "solid", "large"),), "white")
    picture = Image.fromarray(render(scene, np.random.default_rng(0)))
    read = pipeline("image-classification", str(shipped("emblem-classifier")), top_k=None)
    scores = {row["label"]: row["score"] for row in read(picture)}
    shapes = {label: score for label, score in scores.items() if label.startswith("first.shape")}
    assert max(shapes, key=shapes.__getitem__) == "first.shape=heart"


def test_autoencoder_keeps_the_attributes(scorer: Scorer) -> None:
    images, scenes = draw(128, 13, lambda rng: sample_scene(rng, count=1))
    vae = AutoencoderKL.from_pretrained(shipped("emblem-unet"), subfolder="vae")
    with torch.no_grad():
        decoded = vae.decode(vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)
    assert agreement(scorer, decoded, scenes)["all"] >= 0.97


def test_clip_finds_the_caption() -> None:
    path = shipped("emblem-clip")
    hits = measure_clip(CLIPModel.from_pretrained(path), CLIPTokenizer.from_pretrained(path), 1, 1)
    assert min(hits.values()) >= 0.95


def test_weak_model_is_an_earlier_unet_of_the_same_make() -> None:
    weak = UNet2DConditionModel.from_pretrained(shipped("emblem-unet-weak"))
    strong = UNet2DConditionModel.from_pretrained(shipped("emblem-unet"), subfolder="unet")
    first, second = weak.state_dict(), strong.state_dict()
    assert {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in second.items()}
    assert not torch.equal(first["conv_in.weight"], second["conv_in.weight"])


def test_configs_name_no_place_on_the_machine_that_trained_them() -> None:
    for path in shipped("emblem-unet").parent.rglob("*.json"):
        assert "_name_or_path" not in path.read_text(encoding="utf-8"), path


def test_results_are_complete_and_their_verdicts_true() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert set(results) == set(BARS)
    for part, found in results.items():
        verdict = found["verdict"]
        assert verdict["bar"] == BARS[part]
        assert verdict["reached"] == found[HEADLINES[part]]
        assert verdict["met"] == (verdict["reached"] >= verdict["bar"])
        assert found["provenance"]["command"].startswith(f"python -m apps.emblem measure {part}")
    for part in ("unet", "dit"):
        curve = {
            float(scale): row["prompt_accuracy"] for scale, row in results[part]["curve"].items()
        }
        assert min(curve) == 1 and max(curve) == 12 and results[part]["prompts"] >= 512
        assert results[part]["prompt_accuracy"] == max(curve.values())
        assert 1 - curve[1] > 2 * (1 - results[part]["prompt_accuracy"])


def test_readme_shows_the_results_as_they_are() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert markdown_table(results) in (ROOT / "docs/emblem.md").read_text(encoding="utf-8")
