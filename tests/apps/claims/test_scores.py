"""Rank correlations against closed forms and a slow reference."""

import math

import numpy as np
import pytest
import torch

from apps.claims.scores import correlations, draw_scenes, spearman, truth_of
from apps.emblem.world import rarity


def test_rank_correlations_have_their_closed_forms() -> None:
    a = torch.tensor([1.0, 5.0, 2.0, 9.0])
    assert spearman(a, a.exp()) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    assert spearman(a, torch.tensor([1.0, 2.0, 5.0, 9.0])) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert math.isnan(spearman(a[:1], a[:1]))


def test_equals_share_the_mean_of_their_ranks() -> None:
    a, b = torch.tensor([3.0, 1.0, 3.0, 7.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = np.corrcoef([2.5, 1, 2.5, 4], [1, 2, 3, 4])[0, 1]
    assert spearman(a, b) == pytest.approx(expected)


def test_correlations_are_of_all_pictures_and_of_those_of_one_emblem() -> None:
    values = {
        "score": torch.tensor([1.0, 2.0, 3.0, 9.0, 8.0]),
        "rarity": torch.tensor([3.0, 2.0, 1.0, 8.0, 9.0]),
        "emblems": torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0]),
    }
    weights = torch.tensor([[1.0, 1, 1, 1, 1], [0, 2, 1, 0, 2]])
    found = correlations(values, weights)
    assert found["correlation_single"].value == pytest.approx(-1)
    assert found["correlation"].value == pytest.approx(spearman(values["score"], values["rarity"]))
    rows = torch.tensor([1, 1, 2, 4, 4])
    resampled = spearman(values["score"][rows], values["rarity"][rows])
    assert found["correlation"].replicates.tolist() == pytest.approx(
        [found["correlation"].value, resampled]
    )
    assert found["correlation_single"].replicates.tolist() == pytest.approx([-1, -1])


def test_truth_is_that_of_the_rendered_scenes() -> None:
    pixels, scenes = draw_scenes(6, seed=3)
    assert pixels.shape == (6, 3, 64, 64)
    assert torch.equal(pixels[:2], draw_scenes(2, seed=3)[0])
    truth = truth_of(scenes)
    assert truth["rarity"].tolist() == pytest.approx([rarity(scene) for scene in scenes])
    assert truth["emblems"].tolist() == [len(scene.emblems) for scene in scenes]
