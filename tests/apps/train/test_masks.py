"""``diffusteer train masks``: soft masks of a tiny CLIPSeg with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    ViTImageProcessorPil,
)
from typer.testing import CliRunner

from apps.cli import app
from apps.train.masks import PROMPTS, Segmenter, as_mask
from personalize.core.images import find_items
from tests.apps.evaluate.tiny_networks import LAYERS, MEAN, SIDE, STD, picture, save_vit
from tests.tiny import tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder, words = tmp_path_factory.mktemp("clipseg"), tokenizer()
    words.model_max_length = 32
    text = {
        "vocab_size": len(words),
        "max_position_embeddings": 32,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    config = CLIPSegConfig(
        text_config=LAYERS | text,
        vision_config=LAYERS | {"image_size": SIDE, "patch_size": 7},
        projection_dim=16,
        extract_layers=[0, 1],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    images = ViTImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=STD
    )
    CLIPSegProcessor(images, words).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.train.masks_cli.quiet", lambda: None)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos, one of them on its side in its file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    picture(0, 40, 30).save(folder / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1, 50, 20).save(folder / "b.jpg", exif=exif)
    return folder


def _invoke(folder: Path, model: Path | str, *more: str, word: str = "cat") -> Any:
    arguments = ["--train_data_dir", folder, "--super_category", word, "--model", model, *more]
    return CliRunner().invoke(app, ["train", "masks", *map(str, arguments)])


def test_masks_lie_beside_the_photos_as_training_wants_them(clipseg: Path, photos: Path) -> None:
    shown = _invoke(photos, clipseg, "--device", "cpu")
    assert shown.exit_code == 0, shown.output
    one, other = find_items(photos)
    assert (one.mask, other.mask) == (photos / "a.mask.png", photos / "b.mask.png")
    peaks = [line.rsplit(": ") for line in shown.stdout.splitlines()]
    assert [Path(name) for name, _ in peaks] == [one.mask, other.mask]
    for item, (_, peak) in zip((one, other), peaks, strict=True):
        mask = item.load(16).mask
        assert mask is not None and mask.shape == (1, 16, 16)
        assert 0 < float(peak) <= 1
    with Image.open(photos / "b.mask.png") as image:
        assert image.size == (20, 50) and image.mode == "L"


def test_json(clipseg: Path, photos: Path) -> None:
    """The highest probability in each mask that was written."""
    found = json.loads(_invoke(photos, clipseg, "--json").stdout)
    assert list(found) == ["peaks"]
    assert set(found["peaks"]) == {str(photos / name) for name in ("a.mask.png", "b.mask.png")}
    assert all(0 < peak <= 1 for peak in found["peaks"].values())
    assert json.loads(_invoke(photos, clipseg, "--json").stdout) == {"peaks": {}}


def test_a_mask_is_the_mean_probability_over_the_prompts(clipseg: Path) -> None:
    """Prompt by prompt, by the model and the processor as they come."""
    network = CLIPSegForImageSegmentation.from_pretrained(clipseg).eval()
    processor = CLIPSegProcessor.from_pretrained(clipseg, backend="pil")
    image, maps = picture(3, 60, 45), []
    for prompt in PROMPTS:
        inputs = processor(text=[prompt.format("cat")], images=[image], return_tensors="pt")
        with torch.no_grad():
            maps.append(network(**inputs).logits.reshape(SIDE, SIDE).sigmoid())
    found = Segmenter(str(clipseg), "cat", CPU)(image)
    torch.testing.assert_close(found, torch.stack(maps).mean(0))
    assert not torch.allclose(found, Segmenter(str(clipseg), "dog", CPU)(image))


def test_the_surest_place_is_white() -> None:
    probability = torch.tensor([[0.1, 0.2], [0.0, 0.05]])
    assert np.asarray(as_mask(probability, (2, 2))).tolist() == [[128, 255], [0, 64]]
    assert as_mask(probability, (7, 5)).size == (7, 5)


def test_own_masks_stay_unless_told(clipseg: Path, photos: Path) -> None:
    own = Image.new("L", (40, 30), 200)
    own.save(photos / "a.mask.png")
    kept = (photos / "a.mask.png").read_bytes()
    shown = _invoke(photos, clipseg)
    assert "b.mask.png" in shown.output and "a.mask.png" not in shown.output
    assert (photos / "a.mask.png").read_bytes() == kept
    again = _invoke(photos, clipseg)
    assert again.exit_code == 0 and "every photo has a mask already" in again.output
    assert "a.mask.png" in _invoke(photos, clipseg, "--overwrite").output
    assert (photos / "a.mask.png").read_bytes() != kept


def test_what_cannot_be_masked_is_one_line(
    clipseg: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    vit = save_vit(tmp_path / "vit")
    cases = [
        (_invoke(photos, clipseg, word=" "), "super_category must be a word"),
        (_invoke(photos, "nothing"), "model 'nothing' not found"),
        (_invoke(photos, vit), "is of type 'vit'; expected clipseg"),
        (_invoke(tmp_path / "none", clipseg), "expected a folder of photos"),
        (_invoke(photos, clipseg, "--device", "abacus"), "no device 'abacus'"),
    ]
    picture(2).save(photos / "a.jpg")
    cases.append((_invoke(photos, clipseg), "a.jpg and a.png would share the mask a.mask.png"))
    for shown, message in cases:
        assert shown.exit_code == 2, message
        assert message in shown.output and len(shown.stderr.strip().splitlines()) == 1
    assert not list(photos.glob("*.mask.png"))
