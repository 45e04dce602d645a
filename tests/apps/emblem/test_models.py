"""Tokenizer, tricks of the text side, and losses against slow references."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from apps.emblem import models
from apps.emblem.classifier import corrupt, scorer_loss
from apps.emblem.contrastive import contrastive_loss
from apps.emblem.score import HEADS
from apps.emblem.world import (
    ALL_SHAPES,
    ALL_TEXTURES,
    COLOURS,
    SIZES,
    STYLES,
    caption,
    sample_scene,
)
from apps.emblem.zero_tokens import count_last_token
from apps.training.batch import Batch


def test_every_word_of_the_world_is_one_token() -> None:
    tokenizer = models.build_tokenizer()
    for word in {*ALL_SHAPES, *ALL_TEXTURES, *COLOURS, *SIZES, *STYLES, "background", "left"}:
        assert len(tokenizer.tokenize(word)) == 1
    for index in range(100):
        text = caption(sample_scene(np.random.default_rng(index), count=2))
        assert len(tokenizer(text).input_ids) == len(text.split()) + 2 <= models.MAX_TOKENS


@pytest.mark.parametrize("text", ["Ünïcode, 12% of dogs!", "星", "a redder star"])
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = models.build_tokenizer()
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.lower().replace(
        " ", ""
    )


def test_one_counted_token_is_many_equal_tokens() -> None:
    torch.manual_seed(0)
    dit = models.build_dit().eval()
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([700.0, 20.0])
    text, pooled = torch.randn(2, 9, 2 * models.WIDTH), torch.randn(2, 2 * models.WIDTH)

    def predict(zeros: int) -> torch.Tensor:
        padded = F.pad(text, (0, 0, 0, zeros))
        with torch.no_grad():
            return dit(x, padded, pooled, t).sample

    plain = predict(40)
    counted = count_last_token(dit)
    counted.count = 40
    torch.testing.assert_close(predict(1), plain, rtol=0, atol=1e-5)
    counted.count = 1
    assert (predict(1) - plain).abs().max() > 1e-3


def test_silent_t5_says_nothing() -> None:
    encoder, tokenizer = models.build_silent_t5()
    ids = tokenizer("any text at all", padding="max_length", max_length=40, return_tensors="pt")
    hidden = encoder(ids.input_ids)[0]
    assert hidden.shape == (1, 40, 2 * models.WIDTH)
    assert not hidden.any()


def test_contrastive_loss_is_the_mean_of_both_directions() -> None:
    torch.manual_seed(0)
    image, text = torch.randn(3, 5, dtype=torch.float32), torch.randn(3, 5)
    same = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
    loss = contrastive_loss(image, text, torch.tensor(3.0), same)
    expected = 0.0
    for first, second in ((image, text), (text, image)):
        for i in range(3):
            logits = [3 * F.cosine_similarity(first[i], second[j], dim=0) for j in range(3)]
            logs = torch.log_softmax(torch.stack(logits), dim=0)
            equal = same[i].nonzero()[:, 0]
            expected -= float(logs[equal].mean()) / 6
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_scorer_loss_ignores_what_cannot_be_told() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, sum(map(len, HEADS.values())))
    truth = torch.zeros(4, len(HEADS), dtype=torch.long)
    told = torch.tensor([True, True, False, False])
    loss = scorer_loss(logits, truth, told)
    logits[2:, len(HEADS["recognisable"]) :] = 50 * torch.randn_like(logits[2:, 2:])
    torch.testing.assert_close(scorer_loss(logits, truth, told), loss)


def test_corruption_spoils_a_quarter_and_keeps_clean_pictures() -> None:
    batch = Batch(0, 0, 400, 400)
    images = torch.rand(400, 3, 64, 64) * 2 - 1
    spoiled, told = corrupt(images, batch)
    assert 0.68 < told.double().mean() < 0.82
    unchanged = (spoiled == images).flatten(1).all(dim=1)
    assert 0.25 < unchanged.double().mean() < 0.36
    assert told[unchanged].all()
    assert spoiled.abs().max() <= 1
