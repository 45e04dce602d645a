"""Shipped folders hold the models and nothing of how they were used."""

import json
from pathlib import Path

from apps.emblem import models, ship


def test_calls_of_a_tokenizer_are_not_shipped(tmp_path: Path, clip: Path) -> None:
    pipe = ship.unet_pipeline(models.build_unet(), models.build_vae(), clip)
    pipe.tokenizer("a star", padding="max_length", truncation=True, max_length=9)
    ship.ship_pipeline(pipe, tmp_path)
    saved = json.loads((tmp_path / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    assert saved["padding"] is None and saved["truncation"] is None


def test_scheduler_has_the_noise_schedule_of_sd15(clip: Path) -> None:
    config = ship.unet_pipeline(models.build_unet(), models.build_vae(), clip).scheduler.config
    assert (config.beta_start, config.beta_end) == (0.00085, 0.012)
    assert (config.beta_schedule, config.num_train_timesteps) == ("scaled_linear", 1000)
    assert (config.steps_offset, config.set_alpha_to_one, config.clip_sample) == (1, False, False)
