"""Means over groups, without what is not known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from apps.evaluate.pictures.folder import Folder
from apps.evaluate.result import Images
from apps.evaluate.scores import mean_score, single_pictures

NAN = math.nan


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_mean_of_values() -> None:
    score = mean_score("m", tensor(1, 2, NAN, 6), "about", better="lower")
    assert (score.metric, score.value, score.n) == ("m", 3, 3)
    assert score.about == "about; interval by resampling pictures"
    assert score.better == "lower"
    assert score.interval is not None
    assert 1 <= score.interval[0] < 3 < score.interval[1] <= 6


def test_groups_count_the_same() -> None:
    values = tensor(1, 1, 1, 1, NAN, 7, NAN)
    score = mean_score("m", values, "", groups=["a", "a", "a", "a", "b", "b", "c"])
    assert (score.value, score.n) == (4, 5)
    assert score.interval == (1, 7)  # one resample in four has only a, or only b


def test_interval_resamples_groups() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20, 1, generator=generator, dtype=torch.float64).expand(20, 25).flatten()
    groups = [str(number // 25) for number in range(500)]
    together, alone = mean_score("m", values, "", groups=groups), mean_score("m", values, "")
    assert together.value == pytest.approx(alone.value)
    assert together.interval is not None and alone.interval is not None
    wide, narrow = (high - low for low, high in (together.interval, alone.interval))
    assert wide / narrow == pytest.approx(5, rel=0.15)


@pytest.mark.parametrize("groups", [["a", "a"], None])
def test_one_group_has_no_interval(groups: list[str] | None) -> None:
    values = tensor(2, 4) if groups else tensor(3, NAN)
    score = mean_score("m", values, "", groups=groups)
    assert (score.value, score.interval) == (3, None)


@pytest.mark.parametrize("values", [tensor(), tensor(NAN, NAN)])
def test_nothing_known(values: torch.Tensor) -> None:
    score = mean_score("m", values, "")
    assert math.isnan(score.value) and score.interval is None and score.n == 0


def test_seed_and_precision() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    first, same, other = (mean_score("m", values, "", seed=seed) for seed in (1, 1, 2))
    assert first == same and first.interval != other.interval
    big = torch.full((3,), 1e8) + torch.tensor([0.0, 0.0, 8.0])
    assert mean_score("m", big, "").value == pytest.approx(1e8 + 8 / 3, abs=1e-6)


def test_single_pictures_have_none_where_there_is_no_number() -> None:
    folder = Folder(Path("made"), ("b", "a"), ("0", "1"))
    found = single_pictures(folder, {"m": tensor(NAN, 0.5)}, ["x", "y"], ["g", "h"])
    assert found == Images("made", ("b", "a"), {"m": [None, 0.5]}, ("x", "y"), ("g", "h"))
