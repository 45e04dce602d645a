"""The training cache holds what the pipelines feed their denoisers."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from apps.emblem import models, ship
from apps.emblem.diffusion import CAPTIONS_EACH, Cache, build_cache
from apps.emblem.pictures import draw_captions, draw_pictures, to_tensor


def make(path: Path, vae: AutoencoderKL, clip: Path, length: int = 20) -> tuple[Cache, float]:
    _, text_encoder, tokenizer = ship.text_towers(clip)
    return build_cache(path, vae, text_encoder.eval(), tokenizer, length, seed=3)


def test_latents_are_the_scaled_posteriors(tmp_path: Path, clip: Path) -> None:
    vae = models.build_vae().eval()
    cache, factor = make(tmp_path / "cache.safetensors", vae, clip)
    images = to_tensor(draw_pictures(20, 3, any_share=0.0).images)
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
    torch.testing.assert_close(cache.mean, posterior.mean * factor, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cache.std, posterior.std * factor, rtol=1e-4, atol=1e-4)
    total = cache.mean.var() + cache.std.square().mean()
    assert float(total) == pytest.approx(1, rel=1e-4)


def test_texts_are_what_both_pipelines_encode(tmp_path: Path, clip: Path) -> None:
    vae = models.build_vae().eval()
    cache, _ = make(tmp_path / "cache.safetensors", vae, clip)
    texts, captions = draw_captions(draw_pictures(20, 3, any_share=0.0).scenes, 4, CAPTIONS_EACH)
    assert torch.equal(cache.captions, captions + 1)
    number = int(captions[7, 2])
    sd = ship.unet_pipeline(models.build_unet(), vae, clip)
    sd3 = ship.dit_pipeline(models.build_dit(), vae, clip)
    for index, text in [(0, ""), (number + 1, texts[number])]:
        embeds, _ = sd.encode_prompt(text, "cpu", 1, False)
        torch.testing.assert_close(cache.last[index], embeds[0], rtol=1e-4, atol=1e-5)
        embeds, _, pooled, _ = sd3.encode_prompt(
            text, None, None, do_classifier_free_guidance=False, max_sequence_length=5
        )
        twice = torch.cat([cache.penultimate[index]] * 2, dim=-1)
        torch.testing.assert_close(embeds[0, : models.MAX_TOKENS], twice, rtol=1e-4, atol=1e-5)
        assert not embeds[0, models.MAX_TOKENS :].any() and len(embeds[0]) == models.MAX_TOKENS + 5
        twice = torch.cat([cache.pooled[index]] * 2)
        torch.testing.assert_close(pooled[0], twice, rtol=1e-4, atol=1e-5)


def test_a_cache_of_other_models_or_pictures_is_replaced(tmp_path: Path, clip: Path) -> None:
    path = tmp_path / "cache.safetensors"
    vae = models.build_vae().eval()
    first, _ = make(path, vae, clip)
    written = path.stat().st_mtime_ns
    again, _ = make(path, vae, clip)
    assert path.stat().st_mtime_ns == written and torch.equal(first.mean, again.mean)
    assert len(make(path, vae, clip, length=24)[0].mean) == 24
    other, _ = make(path, models.build_vae().eval(), clip)
    assert not torch.equal(first.mean, other.mean)
