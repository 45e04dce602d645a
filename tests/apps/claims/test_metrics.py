"""Measures against closed forms, constructed readings and slow references."""

import math

import pytest
import torch

from apps.claims.metrics import detail, read_values, similarity, spread
from apps.claims.requests import Request
from apps.emblem import Emblem, Scene
from tests.apps.emblem.test_score import reading

RED = Emblem("star", "red", "striped", "large")
BLUE = Emblem("star", "blue", "striped", "large")
ASKED = Request("a striped star on a white background", "a red star", ("colour", "red"))


def test_accuracy_and_leakage_of_constructed_readings() -> None:
    seen = reading(Scene((RED,), "white"), Scene((BLUE,), "white"), Scene((BLUE,), "green"))
    values = read_values(seen, [ASKED] * 3)
    assert values["accuracy"].tolist() == [1, 1, 0]
    assert values["leakage"].tolist() == [1, 0, 0]
    assert values["background"].tolist() == [1, 1, 0]
    assert values["texture"].tolist() == [1, 1, 1]
    assert all(math.isnan(value) for value in values["colour"].tolist())


def test_leakage_is_seen_in_the_second_emblem_too() -> None:
    pair = Request("a star on the left and a star on the right", "a red star", ("colour", "red"))
    seen = reading(Scene((BLUE, RED), "white"), Scene((BLUE, BLUE), "white"))
    assert read_values(seen, [pair] * 2)["leakage"].tolist() == [1, 0]


def test_an_unrecognisable_picture_is_neither_right_nor_leaking() -> None:
    values = read_values(reading(Scene((RED,), "white"), told=False), [ASKED])
    assert values["valid"].tolist() == values["accuracy"].tolist() == [0]
    assert values["leakage"].tolist() == [0]


def test_half_of_two_statements_right_is_a_half() -> None:
    request = Request("a red star on the left and a red star on the right")
    values = read_values(reading(Scene((RED, BLUE), "white")), [request])
    assert values["colour"].tolist() == [0.5]
    assert values["accuracy"].tolist() == [0]
    assert "leakage" not in values


def test_without_a_prompt_only_validity_is_read() -> None:
    values = read_values(reading(Scene((RED,), "white")), [Request("")])
    assert {name: value.tolist() for name, value in values.items()} == {"valid": [1]}


def test_spread_and_detail_have_their_closed_forms() -> None:
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0], [1.0, 1.0]])
    assert spread(features).tolist() == [5.0, 0.0]
    flat, board = torch.zeros(1, 3, 8, 8), torch.ones(8, 8)
    board[::2, ::2] = board[1::2, 1::2] = -1
    images = torch.cat([flat + 0.3, board.expand(1, 3, 8, 8)])
    smooth, fine = detail(images).tolist()
    assert smooth == pytest.approx(0, abs=1e-12)
    assert fine == pytest.approx((8 / 9) ** 2, rel=0.4)  # inside; the edges differ


def test_similarity_is_one_for_the_same_picture_and_less_for_others() -> None:
    pytest.importorskip("torchmetrics")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert similarity(images, images).tolist() == pytest.approx([1, 1])
    assert similarity(images, images.flip(0)).max() < 0.5
