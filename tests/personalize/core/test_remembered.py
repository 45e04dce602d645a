"""T5 reads every prompt once, and training is none the wiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from personalize.core.backbones import backbone_of
from personalize.core.remembered import Remembered
from personalize.core.tokens import Placeholder, initial_rows
from tests import tiny, tiny_families, tiny_text


def flux() -> tuple[Any, Any]:
    pipe = tiny_families.FAMILIES["flux"]()
    return pipe, pipe.text_encoder_2.requires_grad_(False)


def sd3() -> tuple[Any, Any]:
    pipe, words = tiny.sd3(), tiny_text.t5()
    encoder = words["text_encoder"].eval().requires_grad_(False)
    pipe.register_modules(text_encoder_3=encoder, tokenizer_3=words["tokenizer"])
    return pipe, encoder


def _placeholder(pipe: Any) -> Placeholder:
    backbone = backbone_of(pipe)
    rows = initial_rows(backbone, torch.Generator().manual_seed(0), 2)
    return Placeholder(backbone, "<c>", rows)


def _counted(encoder: Any) -> list[int]:
    """Rows of each call that the encoder itself gets."""
    rows: list[int] = []
    encoder.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len((args or tuple(kwargs.values()))[0])),
        with_kwargs=True,
    )
    return rows


@pytest.mark.parametrize("make", [flux, sd3])
def test_a_prompt_is_encoded_once_and_to_the_same_bits(make: Any) -> None:
    pipe, encoder = make()
    placeholder = _placeholder(pipe)
    prompts = ["a <c>", "red <c>", "a <c>"]
    kept, placeholder._frozen = placeholder._frozen, []
    expected = [placeholder.encode([prompt]) for prompt in prompts]
    placeholder._frozen = kept
    rows = _counted(encoder)
    for _ in range(2):
        for prompt, plain in zip(prompts, expected, strict=True):
            assert torch.equal(placeholder.encode([prompt]).embeds, plain.embeds)
    both = placeholder.encode(prompts).embeds
    torch.testing.assert_close(both, torch.cat([plain.embeds for plain in expected]))
    assert rows == [1, 1]


def test_gradients_reach_the_words_all_the_same() -> None:
    placeholder = _placeholder(sd3()[0])
    for _ in range(2):
        found = placeholder.encode(["a <c>"])
        assert found.pooled is not None
        (found.embeds.square().sum() + found.pooled.square().sum()).backward()
    assert all(rows.grad is not None and rows.grad.any() for rows in placeholder.rows.values())


def test_outside_of_training_the_pipeline_reads_for_itself() -> None:
    pipe, encoder = flux()
    placeholder = _placeholder(pipe)
    rows = _counted(encoder)
    placeholder.encode(["a x"])
    pipe.encode_prompt(["a x"])
    pipe.encode_prompt(["a x"])
    assert rows == [1, 1, 1]


def test_it_keeps_the_latest_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personalize.core.remembered._REMEMBERED", 2)
    _, encoder = flux()
    rows, remembered = _counted(encoder), Remembered(encoder)
    with remembered.at_work():
        for number in (5, 6, 5, 7, 5, 6):
            encoder(torch.tensor([[number, 1]]))
    assert len(rows) == 4  # 5, 6, 7, and 6 again, which 7 has put out


def test_a_pipeline_without_t5_has_none() -> None:
    assert backbone_of(tiny.sd()).frozen_text_encoders == ()
    assert backbone_of(tiny.sdxl()).frozen_text_encoders == ()
    assert backbone_of(tiny.sd3()).frozen_text_encoders == ()
