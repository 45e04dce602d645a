"""Latents: each photo alone, encoded once, read back to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from personalize.core.backbone import Backbone
from personalize.core.backbones import backbone_of
from personalize.core.images import find_items
from personalize.core.latents import Latents, View
from personalize.core.samples import Samples, seed_of
from personalize.core.settings import DataSettings, TrainSettings
from personalize.core.targets import Noising
from tests.personalize.core.dummy import photos

VIEWS = [View(index, flip) for index in range(3) for flip in (False, True)]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Pixels that were encoded."""
    seen: list[torch.Tensor] = []
    encode = Backbone.encode_images

    def kept(backbone: Backbone, pixels: torch.Tensor) -> Any:
        seen.append(pixels)
        return encode(backbone, pixels)

    monkeypatch.setattr(Backbone, "encode_images", kept)
    return seen


def make(model: Any, folder: Path, masked: bool = False, resolution: int = 16) -> Latents:
    return Latents(backbone_of(model), find_items(folder), resolution, masked)


def test_is_what_the_vae_says(model: Any, photo_folder: Path) -> None:
    latents = make(model, photo_folder, masked=True)
    latents.keep(VIEWS, None, "weights")
    item = find_items(photo_folder)[2]
    for flip in (False, True):
        found = latents.get(View(2, flip))
        pixels = item.load(16, (0.5, 0.5), flip).pixels
        posterior = model.vae.encode(pixels[None]).latent_dist
        scale = model.vae.config.scaling_factor
        torch.testing.assert_close(found.mean, posterior.mean[0] * scale)
        torch.testing.assert_close(found.std, posterior.std[0] * scale)
        assert found.mask is not None
        rows = found.mask.shape[-2]
        assert torch.equal(found.mask[0, : rows // 2], torch.ones(rows // 2, rows))
        assert not found.mask[0, rows // 2 :].any()
        assert found.sizes.original == (16, 24)
        assert found.sizes.crop == (0, 4)
        assert found.sizes.target == (16, 16)
    assert not torch.equal(latents.get(View(2)).mean, latents.get(View(2, True)).mean)


def test_draws_from_the_posterior(model: Any, photo_folder: Path) -> None:
    latent = make(model, photo_folder).get(View(0))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([latent.sample(generator) for _ in range(4000)])
    torch.testing.assert_close(drawn.mean(0), latent.mean, rtol=0.1, atol=0.1)
    torch.testing.assert_close(drawn.std(0), latent.std, rtol=0.1, atol=0.01)


def test_cache(model: Any, photo_folder: Path, tmp_path: Path, encoded: list[torch.Tensor]) -> None:
    cache = tmp_path / "cache" / "latents.safetensors"
    first, second = make(model, photo_folder, True), make(model, photo_folder, True)
    called: list[int] = []
    first.keep(VIEWS, cache, "weights", lambda: called.append(1))
    assert len(encoded) == len(called) == 6
    assert all(pixels.shape == (1, 3, 16, 16) for pixels in encoded)
    second.keep(VIEWS, cache, "weights")
    assert len(encoded) == 6
    for view in VIEWS:
        ours, theirs = first.get(view), second.get(view)
        assert torch.equal(ours.mean, theirs.mean)
        assert torch.equal(ours.std, theirs.std)
        assert ours.mask is not None
        assert theirs.mask is not None
        assert torch.equal(ours.mask, theirs.mask)
        assert ours.sizes == theirs.sizes
    assert len(encoded) == 6
    second.get(View(0, crop=(0.1, 0.9)))
    assert len(encoded) == 7


@pytest.mark.parametrize("what", ["weights", "views", "masked", "resolution", "photo"])
def test_cache_of_others(
    model: Any, tmp_path: Path, encoded: list[torch.Tensor], what: str
) -> None:
    folder = photos(tmp_path / "photos", masks=True)
    cache = tmp_path / "latents.safetensors"
    make(model, folder).keep(VIEWS, cache, "weights")
    views, weights = VIEWS, "weights"
    if what == "photo":
        Image.new("RGB", (16, 16), "red").save(folder / "0.png")
    if what == "views":
        views = VIEWS[:-1]
    if what == "weights":
        weights = "others"
    other = make(model, folder, what == "masked", 24 if what == "resolution" else 16)
    other.keep(views, cache, weights)
    assert len(encoded) == 6 + len(views)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_broken_cache(model: Any, photo_folder: Path, tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "latents.safetensors"
    cache.write_bytes(content)
    latents = make(model, photo_folder)
    latents.keep(VIEWS[:1], cache, "weights")
    assert cache.stat().st_size > 1000


def test_a_cache_that_is_not_finite_is_made_anew(
    model: Any, photo_folder: Path, tmp_path: Path, encoded: list[torch.Tensor]
) -> None:
    cache = tmp_path / "latents.safetensors"
    make(model, photo_folder).keep(VIEWS[:2], cache, "weights")
    with safe_open(cache, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(cache)
    tensors["1.mean"][0, 0, 0] = torch.nan
    save_file(tensors, cache, metadata)
    latents = make(model, photo_folder)
    latents.keep(VIEWS[:2], cache, "weights")
    assert len(encoded) == 4
    assert bool(latents.get(VIEWS[1]).mean.isfinite().all())
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(cache).values())


@pytest.mark.parametrize("part", [0, 1])
def test_latents_that_are_not_finite_name_their_photo(
    model: Any, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """The mean or the spread of the second photo; nothing is cached then."""
    encode, calls = Backbone.encode_images, [0]

    def spoiled(backbone: Backbone, pixels: torch.Tensor) -> Any:
        calls[0] += 1
        posterior = encode(backbone, pixels)
        if calls[0] == 2:
            posterior[part][0, 1, 2, 3] = torch.inf
        return posterior

    monkeypatch.setattr(Backbone, "encode_images", spoiled)
    cache = tmp_path / "latents.safetensors"
    with pytest.raises(FloatingPointError, match=r"the latents of 1\.png holds numbers"):
        make(model, photo_folder).keep([View(0), View(1), View(2)], cache, "weights")
    assert not cache.exists()


def test_ends_when_asked(model: Any, photo_folder: Path, tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    cache = tmp_path / "latents.safetensors"
    with pytest.raises(KeyboardInterrupt):
        make(model, photo_folder).keep(VIEWS, cache, "weights", stop)
    assert not cache.exists()


def test_masks(model: Any, tmp_path: Path) -> None:
    folder = photos(tmp_path, masks=True)
    (folder / "1.mask.png").unlink()
    with pytest.raises(ValueError, match=r"1\.png has none; add 1\.mask\.png"):
        make(model, folder, True).keep(VIEWS, None, "weights")
    wide = Image.new("L", (100, 16))
    Image.new("RGB", (100, 16)).save(folder / "1.png")
    wide.putpixel((0, 0), 255)
    wide.save(folder / "1.mask.png")
    with pytest.raises(ValueError, match=r"mask of 1\.png is black where the photo is cut"):
        make(model, folder, True).keep(VIEWS, None, "weights")


def samples(model: Any, folder: Path, data: DataSettings, **settings: Any) -> Samples:
    noising = Noising.of(model.scheduler)
    chosen = TrainSettings(**settings)
    latents = make(model, folder)
    source = Samples(find_items(folder), latents, noising, chosen, data, torch.device("cpu"))
    latents.keep(source.few_views(), None, "weights")
    return source


def test_samples_do_not_know_their_batch(model: Any, photo_folder: Path) -> None:
    data = DataSettings(resolution=16, crop="random", flip=0.5)
    source = samples(model, photo_folder, data)
    whole = source.batch(3, range(4, 9))
    for number, row in zip(range(4, 9), range(5), strict=True):
        alone = source.batch(3, [number])
        assert alone.prompts == whole.prompts[row : row + 1]
        assert alone.sizes == whole.sizes[row : row + 1]
        for name in ("latents", "noise", "timesteps", "noisy", "target", "weights"):
            assert torch.equal(getattr(alone, name)[0], getattr(whole, name)[row])
    assert whole.seed == source.batch(3, [0]).seed != source.batch(4, [0]).seed
    assert torch.equal(
        torch.rand(3, generator=whole.generator()), torch.rand(3, generator=whole.generator())
    )


def test_samples_are_spread(model: Any, photo_folder: Path) -> None:
    """Each photo once in an epoch; flips, texts and times as often as they should be."""
    source = samples(
        model, photo_folder, DataSettings(flip=0.3), timestep_low=500, timestep_high=900
    )
    latents = make(model, photo_folder)
    latents.keep(VIEWS, None, "weights")
    batch = source.batch(0, range(900))
    for epoch in range(300):
        names = [item.name for item in batch.items[3 * epoch : 3 * epoch + 3]]
        assert sorted(names) == ["0.png", "1.png", "2.png"]
    orders = {tuple(item.name for item in batch.items[i : i + 3]) for i in range(0, 900, 3)}
    assert len(orders) == 6
    assert batch.timesteps.min() >= 500
    assert batch.timesteps.max() < 900
    assert abs(float(batch.timesteps.double().mean()) - 699.5) < 15
    assert len(set(batch.prompts)) == 27
    mirrored = 0
    for item, clean in zip(batch.items, batch.latents, strict=True):
        index = int(item.name[0])
        distance = [(clean - latents.get(View(index, f)).mean).norm() for f in (False, True)]
        mirrored += distance[1] < distance[0]
    assert 0.24 < mirrored / 900 < 0.36
    assert abs(float(batch.noise.mean())) < 0.01
    assert batch.noise.flatten(1).unique(dim=0).shape[0] == 900


def test_other_seeds(model: Any, photo_folder: Path) -> None:
    data = DataSettings(resolution=16)
    ours = samples(model, photo_folder, data, seed=1).batch(0, range(3))
    theirs = samples(model, photo_folder, data, seed=2).batch(0, range(3))
    assert not torch.equal(ours.noise, theirs.noise)
    seeds = {seed_of(a, b, c) for a in (0, 1, 11) for b in ("sample", "order") for c in (0, 1, 11)}
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_fixed(model: Any, photo_folder: Path) -> None:
    """Validation: every photo in turn, evenly spaced noise levels, no flips and no draws."""
    source = samples(model, photo_folder, DataSettings(flip=1.0), timestep_low=200)
    batches = [source.fixed(number, 4) for number in range(4)]
    assert [int(batch.timesteps) for batch in batches] == [300, 500, 700, 900]
    assert [batch.items[0].name for batch in batches] == ["0.png", "1.png", "2.png", "0.png"]
    latents = make(model, photo_folder)
    assert torch.equal(batches[1].latents[0], latents.get(View(1)).mean)
    assert not torch.equal(batches[0].noise, batches[3].noise)
    assert batches[0].prompts != batches[3].prompts


def test_views_to_keep(model: Any, photo_folder: Path) -> None:
    def kept(data: DataSettings, **settings: Any) -> set[View]:
        return set(samples(model, photo_folder, data, **settings).few_views())

    centers = {View(index) for index in range(3)}
    assert kept(DataSettings()) == centers
    assert kept(DataSettings(flip=0.5)) == set(VIEWS)
    assert kept(DataSettings(crop="random")) == set()
    assert kept(DataSettings(crop="random"), validation_samples=1) == centers
