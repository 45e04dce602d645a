"""Embeddings of CLIP, and the wrapper that torchmetrics needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchmetrics.multimodal import CLIPScore
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from apps.evaluate.networks.clip import ClipExtractor, Embeddings, load_clip, load_emblem_clip
from apps.shipped import shipped
from tests.apps.evaluate.tiny_networks import picture, save_clip

CPU = torch.device("cpu")
PROMPTS = ["a large red star", "a blue ring", "a small hat"]
PICTURES = [picture(seed, 40 + 20 * seed, 64) for seed in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"), tokens=20)


@pytest.fixture(params=["emblem", "tiny"])
def clip(request: pytest.FixtureRequest, folder: Path) -> tuple[ClipExtractor, Path]:
    if request.param == "tiny":
        return load_clip(str(folder), CPU), folder
    return load_emblem_clip("", CPU), shipped("emblem-clip")


def _processor(folder: Path) -> CLIPProcessor:
    images = CLIPImageProcessorPil.from_pretrained(folder)
    return CLIPProcessor(images, CLIPTokenizer.from_pretrained(folder))


def _embed(clip: ClipExtractor, pictures: list[Image.Image]) -> torch.Tensor:
    return clip.features(torch.stack([clip.prepare(image) for image in pictures]))


def test_our_cosine_is_the_score_of_torchmetrics(clip: tuple[ClipExtractor, Path]) -> None:
    own, folder = clip
    cosines = F.cosine_similarity(_embed(own, PICTURES), own.text(PROMPTS))
    pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in PICTURES]
    model = Embeddings(CLIPModel.from_pretrained(folder).float().eval())
    metric = CLIPScore(model_name_or_path=lambda: (model, _processor(folder)))
    metric.update(pixels, PROMPTS)
    expected = metric.score / metric.n_samples  # before the clamp at zero
    assert 100 * cosines.mean() == pytest.approx(expected.item(), rel=1e-4)


def test_torchmetrics_needs_the_wrapper(folder: Path) -> None:
    model = CLIPModel.from_pretrained(folder)
    metric = CLIPScore(model_name_or_path=lambda: (model, _processor(folder)))
    try:
        metric.update(torch.zeros(3, 28, 28, dtype=torch.uint8), "a hat")
    except AttributeError:
        return
    pytest.fail("CLIPScore takes a plain CLIPModel again: remove its wrapper, Embeddings")


def test_embeddings_are_those_of_a_whole_pass(clip: tuple[ClipExtractor, Path]) -> None:
    own, folder = clip
    model = CLIPModel.from_pretrained(folder).float().eval()
    inputs = _processor(folder)(text=PROMPTS, images=PICTURES, padding=True, return_tensors="pt")
    with torch.no_grad():
        whole = model(**inputs)
    torch.testing.assert_close(F.normalize(_embed(own, PICTURES), dim=1), whole.image_embeds)
    torch.testing.assert_close(F.normalize(own.text(PROMPTS), dim=1), whole.text_embeds)


def test_long_prompts_are_cut_and_counted(folder: Path) -> None:
    own = load_clip(str(folder), CPU)
    assert own.cut("a" * 18) == 0  # 20 tokens with start and end
    assert own.cut("a" * 25) == 7
    long, other, unlike = own.text(["a" * 25, "a" * 18 + "b" * 7, "a" * 17 + "b" * 8])
    torch.testing.assert_close(long, other)
    assert (long - unlike).abs().max() > 1e-3
    assert own.describe()["text"] == {"tokenizer": "CLIPTokenizer", "tokens": 20}


def test_emblem_takes_32_tokens() -> None:
    own = load_emblem_clip("", CPU)
    assert own.cut(" ".join(["star"] * 30)) == 0
    assert own.cut(" ".join(["star"] * 40)) == 10
    assert own.text(["star " * 40, ""]).shape == (2, own.dimension)


def test_texts_do_not_depend_on_their_batch(clip: tuple[ClipExtractor, Path]) -> None:
    own, _ = clip
    together = own.text(PROMPTS)
    apart = torch.cat([own.text([prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(together, apart, rtol=1e-6, atol=1e-6)


def test_the_processor_may_come_from_elsewhere(folder: Path, tmp_path: Path) -> None:
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    own = ClipExtractor("bare", str(tmp_path), CPU, processor=str(folder))
    torch.testing.assert_close(own.text(PROMPTS), load_clip(str(folder), CPU).text(PROMPTS))
