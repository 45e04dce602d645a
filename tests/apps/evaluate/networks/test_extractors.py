"""Feature extractors by name: what they compute, say of themselves, and refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, ViTModel

from apps.emblem.pictures import to_tensor
from apps.emblem.score import Scorer
from apps.evaluate.networks.extractors import Extractor, TextExtractor, load_extractor
from apps.evaluate.networks.pretrained import exact, weights_hash
from apps.shipped import shipped
from tests.apps.evaluate.tiny_networks import (
    MEAN,
    SIDE,
    STD,
    picture,
    save_clip,
    save_dinov2,
    save_vit,
)

NAMES = ["emblem-classifier", "emblem-clip", "clip:tiny-clip", "dino:tiny-dinov2", "dino:tiny-vit"]
PICTURES = [picture(seed, 40 + 9 * seed, 70 - 5 * seed) for seed in range(5)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("networks")
    save_clip(root / "tiny-clip")
    save_dinov2(root / "tiny-dinov2")
    save_vit(root / "tiny-vit")
    return root


def _load(name: str, folders: Path) -> Extractor:
    kind, colon, folder = name.partition(":")
    return load_extractor(f"{kind}:{folders / folder}" if colon else name)


@pytest.fixture(params=NAMES)
def extractor(request: pytest.FixtureRequest, folders: Path) -> Extractor:
    return _load(request.param, folders)


def _embed(extractor: Extractor, *pictures: Image.Image) -> torch.Tensor:
    return extractor.features(torch.stack([extractor.prepare(image) for image in pictures]))


def test_features_do_not_depend_on_batch_or_order(extractor: Extractor) -> None:
    together = _embed(extractor, *PICTURES)
    assert together.shape == (5, extractor.dimension)
    assert together.dtype == torch.float32
    assert not together.requires_grad
    backwards = _embed(extractor, *PICTURES[::-1]).flip(0)
    apart = torch.cat([_embed(extractor, image) for image in PICTURES])
    size = together.abs().max()
    torch.testing.assert_close(backwards / size, together / size, rtol=0, atol=1e-6)
    torch.testing.assert_close(apart / size, together / size, rtol=0, atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 1e-3 * size


def test_grey_is_the_same_in_any_mode(extractor: Extractor) -> None:
    grey = PICTURES[0].convert("L")
    assert torch.equal(extractor.prepare(grey), extractor.prepare(grey.convert("RGB")))


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (100, 3), (64, 64)])
def test_a_constant_picture_becomes_its_normalised_colour(
    extractor: Extractor, size: tuple[int, int]
) -> None:
    colour = (250, 128, 3)
    about = extractor.describe()
    mean, std = torch.tensor(about["mean"]), torch.tensor(about["std"])
    expected = (torch.tensor(colour) / 255 - mean) / std
    prepared = extractor.prepare(Image.new("RGB", size, colour))
    torch.testing.assert_close(prepared, expected.view(3, 1, 1).expand_as(prepared))


def test_descriptions_are_json_and_say_the_same_things(extractor: Extractor) -> None:
    about = json.loads(json.dumps(extractor.describe()))
    text = {"text"} if isinstance(extractor, TextExtractor) else set()
    assert set(about) == text | {
        *("name", "kind", "dimension", "network", "weights", "dtype"),
        *("size", "crop", "resampling", "antialias", "mean", "std"),
    }
    assert len(about["weights"]) == 64
    assert extractor.name == about["name"]


@pytest.mark.parametrize("name", NAMES)
def test_names_hold_no_path(folders: Path, name: str) -> None:
    assert _load(name, folders).name == name


def test_clip_and_dinov2_prepare_as_their_processors_do(folders: Path) -> None:
    for name in ("clip:tiny-clip", "dino:tiny-dinov2"):
        extractor = _load(name, folders)
        saved = AutoImageProcessor.from_pretrained(folders / name.split(":")[1], backend="pil")
        for image in PICTURES:
            expected = saved(image, return_tensors="pt").pixel_values[0]
            assert torch.equal(extractor.prepare(image), expected)
        about = extractor.describe()
        assert about["size"] == {"shortest_edge": 32}
        assert about["crop"] == {"height": SIDE, "width": SIDE}
        assert (about["resampling"], about["antialias"]) == ("bicubic", True)
        assert (about["mean"], about["std"]) == (MEAN, STD)


def test_pillow_is_asked_for_even_where_torchvision_is(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, asked = AutoImageProcessor.from_pretrained, []

    def note(source: str, **options: Any) -> Any:
        asked.append(options)
        return load(source, **options)

    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", note)
    _load("clip:tiny-clip", folders)
    assert asked == [{"backend": "pil"}]


@pytest.mark.parametrize("name", ["dino:tiny-dinov2", "dino:tiny-vit"])
def test_shorter_side_then_crop_by_hand(folders: Path, name: str) -> None:
    resized = picture(7, 128, 64).resize((64, 32), Image.Resampling.BICUBIC)
    values = np.asarray(resized.crop((18, 2, 18 + SIDE, 2 + SIDE))) / 255
    expected = ((values - MEAN) / STD).transpose(2, 0, 1)
    prepared = _load(name, folders).prepare(picture(7, 128, 64))
    np.testing.assert_allclose(prepared.numpy(), expected, atol=1e-6)


def test_emblem_pictures_go_in_unresized() -> None:
    image = picture(3)
    for name in ("emblem-classifier", "emblem-clip"):
        prepared = load_extractor(name).prepare(image)
        torch.testing.assert_close(prepared, to_tensor(np.array(image)[None])[0])


def test_the_classifier_gives_the_features_of_the_scorer() -> None:
    images = np.stack([np.asarray(picture(seed)) for seed in range(4)])
    expected = Scorer.from_pretrained(shipped("emblem-classifier")).read(to_tensor(images)).features
    found = _embed(load_extractor("emblem-classifier"), *map(Image.fromarray, images))
    torch.testing.assert_close(found, expected)


def test_dino_gives_the_class_token_after_the_norm(folders: Path) -> None:
    for name in ("tiny-dinov2", "tiny-vit"):
        extractor = load_extractor(f"dino:{folders / name}")
        model: Any = AutoModel.from_pretrained(folders / name, output_hidden_states=True).eval()
        prepared = torch.stack([extractor.prepare(image) for image in PICTURES])
        with torch.no_grad():
            output = model(prepared)
            expected = model.layernorm(output.hidden_states[-1])[:, 0]
        found = extractor.features(prepared)
        torch.testing.assert_close(found, output.last_hidden_state[:, 0])
        torch.testing.assert_close(found, expected)


def test_a_pooler_that_was_never_trained_changes_nothing(folders: Path, tmp_path: Path) -> None:
    extractor = load_extractor(f"dino:{folders / 'tiny-vit'}")
    shutil.copytree(folders / "tiny-vit", tmp_path / "pooled")
    ViTModel.from_pretrained(folders / "tiny-vit").save_pretrained(tmp_path / "pooled")
    pooled = load_extractor(f"dino:{tmp_path / 'pooled'}")
    assert pooled.describe()["weights"] == extractor.describe()["weights"]
    assert torch.equal(_embed(pooled, *PICTURES), _embed(extractor, *PICTURES))


@pytest.mark.parametrize("name", ["clip:tiny-clip", "dino:tiny-vit"])
def test_the_hash_is_of_the_weights_alone(folders: Path, tmp_path: Path, name: str) -> None:
    kind, _, folder = name.partition(":")
    first = _load(name, folders).describe()["weights"]
    moved = tmp_path / "elsewhere"
    shutil.copytree(folders / folder, moved)
    AutoModel.from_pretrained(moved).save_pretrained(moved, max_shard_size="20KB")
    (moved / "model.safetensors").unlink(missing_ok=True)
    assert len(list(moved.glob("*.safetensors"))) > 1
    assert load_extractor(f"{kind}:{moved}").describe()["weights"] == first
    changed = tmp_path / "changed"
    shutil.copytree(folders / folder, changed)
    weights = load_file(changed / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1e-3
    save_file(weights, changed / "model.safetensors", {"format": "pt"})
    assert load_extractor(f"{kind}:{changed}").describe()["weights"] != first


def test_the_hash_does_not_see_the_order_of_the_parts() -> None:
    parts = {"first": torch.nn.Linear(2, 3), "second": torch.nn.Linear(3, 4)}
    backwards = dict(reversed(parts.items()))
    hashes = {weights_hash(torch.nn.ModuleDict(order)) for order in (parts, backwards)}
    assert len(hashes) == 1


def test_the_hash_sees_names_and_shapes() -> None:
    one, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    other.load_state_dict(one.state_dict())
    assert weights_hash(one) == weights_hash(other)
    assert weights_hash(torch.nn.Sequential(one)) != weights_hash(one)
    other.weight = torch.nn.Parameter(one.weight.detach().view(3, 2).reshape(2, 3))
    assert weights_hash(one) != weights_hash(other)


def test_convolutions_are_not_rounded() -> None:
    before = torch.backends.cudnn.allow_tf32
    with exact():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.is_grad_enabled()
    assert torch.backends.cudnn.allow_tf32 == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("emblem-clasifier", r"'emblem-clasifier'; did you mean 'emblem-classifier'\? \(expected "),
        ("dinov2:owner/name", "did you mean 'dino'"),
        ("clip", r"no extractor 'clip' \(expected one of emblem-classifier, .*clip:ID_OR_PATH"),
        ("emblem-clip:owner/name", r"no extractor 'emblem-clip:owner/name' \(expected"),
        ("", r"no extractor '' \(expected"),
        ("clip:/no/such", "model '/no/such' not found: expected an existing folder or a hub id"),
        ("dino:..x", "'..x' not found"),
        ("clip:owner/name", "cannot load model 'owner/name'; check the id and the connection"),
        ("dino:owner/name", "cannot load model 'owner/name'; check the id and the connection"),
    ],
)
def test_bad_names(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        load_extractor(name)
    assert "\n" not in str(error.value)


def test_a_network_of_another_family_is_refused(folders: Path) -> None:
    with pytest.raises(ValueError, match="'tiny-clip' is of type 'clip'; expected vit, dinov2"):
        load_extractor(f"dino:{folders / 'tiny-clip'}")
    with pytest.raises(ValueError, match="is of type 'dinov2'; expected clip"):
        load_extractor(f"clip:{folders / 'tiny-dinov2'}")


def test_pickled_and_damaged_weights_are_refused(folders: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(folders / "tiny-vit", pickled)
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"'pickled'; check .* its weights are in safetensors"):
        load_extractor(f"dino:{pickled}")
    (pickled / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="'pickled'; check that its files are complete"):
        load_extractor(f"dino:{pickled}")


def test_missing_weights_are_refused_instead_of_drawn(folders: Path, tmp_path: Path) -> None:
    holed = tmp_path / "holed"
    shutil.copytree(folders / "tiny-vit", holed)
    weights = load_file(holed / "model.safetensors")
    del weights["layernorm.bias"]
    save_file(weights, holed / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"'holed' lacks 1 weights, 'layernorm\.bias' first"):
        load_extractor(f"dino:{holed}")
