"""Which encodings hold a word, after everything that pipelines do to them."""

from typing import Any

import pytest
import torch

from personalize.core.presence import Watch
from tests.tiny import sample, sd, sdxl


def _seen(pipe: Any, words: tuple[str, ...], **call: Any) -> torch.Tensor:
    """What is present in the rows of the first denoiser call."""
    rows: list[torch.Tensor] = []

    def look(module: Any, args: Any, kwargs: Any) -> None:
        rows.append(watch.present(kwargs["encoder_hidden_states"]))

    watch = Watch(pipe, lambda prompt: [word in prompt for word in words])
    handle = pipe.unet.register_forward_pre_hook(look, with_kwargs=True)
    try:
        pipe(num_inference_steps=1, output_type="latent", height=16, width=16, **call)
    finally:
        handle.remove()
        watch.stop()
    assert "encode_prompt" not in vars(pipe)
    return rows[0]


@pytest.mark.parametrize("make", [sd, sdxl])
def test_rows_of_every_prompt_are_told_apart(make: Any) -> None:
    prompts = ["red fox", "grey cat", "red cat"]
    found = _seen(
        make(),
        ("red", "cat"),
        prompt=prompts,
        negative_prompt=["", "cat", "red fox"],
        num_images_per_prompt=2,
    )
    negative = [(False, False), (False, True), (True, False)]
    positive = [(True, False), (False, True), (True, True)]
    expected = [row for row in (*negative, *positive) for _ in range(2)]
    assert [tuple(row) for row in found.tolist()] == expected


def test_a_negative_prompt_for_all_and_none_at_all() -> None:
    found = _seen(sd(), ("fox",), prompt="red fox", negative_prompt="fox")
    assert found[:, 0].tolist() == [True, True]
    found = _seen(sd(), ("fox",), prompt=["red fox", "cat"])
    assert found[:, 0].tolist() == [False, False, True, False]


def test_encodings_from_elsewhere_hold_everything() -> None:
    pipe = sd()
    embeds, negatives = pipe.encode_prompt("a cat", "cpu", 1, True)
    found = _seen(
        pipe, ("fox",), prompt=None, prompt_embeds=embeds, negative_prompt_embeds=negatives
    )
    assert found[:, 0].tolist() == [True, True]


def test_encodings_made_while_watching_are_known_later() -> None:
    pipe = sd()
    watch = Watch(pipe, lambda prompt: ["fox" in prompt])
    embeds, _ = pipe.encode_prompt(["a cat", "a fox"], "cpu", 1, False)
    both = torch.cat([embeds, embeds.flip(0)])
    assert watch.present(both)[:, 0].tolist() == [False, True, True, False]
    assert watch.present(both.to(torch.float64))[:, 0].tolist() == [False, True, True, False]
    assert watch.present(embeds[:, :3])[:, 0].tolist() == [True, True]
    watch.stop()


def test_another_clip_skip_is_refused() -> None:
    pipe = sd()
    watch = Watch(pipe, lambda prompt: [True], clip_skip=1)
    with pytest.raises(ValueError, match="clip_skip=1, found clip_skip=None"):
        sample(pipe)
    watch.stop()
    sample(pipe)
