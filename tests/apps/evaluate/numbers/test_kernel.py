"""Sums of the kernel over the parts of a set, against loops over all pairs and torchmetrics."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest
import torch
from torch import Tensor

from apps.evaluate.numbers.kernel import KernelSums, kernel_distance
from tests.apps.evaluate.numbers.test_moments import draw
from tests.apps.evaluate.test_metrics import slow_kernel, torchmetrics_score

PARTITIONS = [[17], [8, 9], [1, 16], [1, 1, 15], [2, 3, 5, 7], [1] * 17]


def split(rows: Tensor, sizes: list[int], seed: int = 0) -> list[Tensor]:
    """Parts of these sizes, of rows in any order."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return list(rows[order].split(sizes))


@pytest.mark.parametrize("sizes", PARTITIONS, ids=str)
def test_any_partition_has_the_distance_of_the_whole(
    sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.evaluate.numbers.arrays.BLOCK", 5)
    real, fake = draw(12, 4, seed=1), draw(17, 4, seed=2) * 1.2
    found = KernelSums.of(real, split(fake, sizes)).distance()
    assert found == pytest.approx(kernel_distance(real, fake), rel=1e-12)
    assert found == pytest.approx(slow_kernel(real, fake), rel=1e-12)


@pytest.mark.parametrize("sizes", PARTITIONS[1:], ids=str)
def test_a_part_left_out_is_a_part_that_was_never_there(sizes: list[int]) -> None:
    real, fake = draw(12, 4, seed=1), draw(17, 4, seed=2) * 1.2
    parts = split(fake, sizes)
    sums = KernelSums.of(real, parts)
    left_out = sums.left_out()
    assert len(left_out) == len(parts)
    for number, found in enumerate(left_out):
        rest = torch.cat([part for other, part in enumerate(parts) if other != number])
        if len(rest) > 1:
            assert found == pytest.approx(kernel_distance(real, rest), rel=1e-12, abs=1e-12)


def test_the_mean_over_all_subsets_is_the_distance_of_the_whole() -> None:
    real, population = draw(5, 3, seed=3), draw(7, 3, seed=4) + 0.5
    whole = kernel_distance(real, population)
    for size in (2, 3, 6):
        subsets = itertools.combinations(range(7), size)
        mean = statistics.fmean(kernel_distance(real, population[list(rows)]) for rows in subsets)
        assert mean == pytest.approx(whole, rel=1e-11)


def test_parts_have_the_distance_of_torchmetrics_over_one_subset_of_all() -> None:
    real, fake = draw(30, 6, seed=5), draw(30, 6, seed=6) + 0.3
    expected = torchmetrics_score(
        "kid:KernelInceptionDistance", real, fake, subsets=1, subset_size=30
    )
    parts = [fake[group::4] for group in range(4)]
    assert KernelSums.of(real, parts).distance() == pytest.approx(expected, rel=1e-9)


def test_products_of_float32_rows_are_taken_in_float64() -> None:
    real = (draw(20, 4, seed=7) + 300).float()
    fake = (draw(20, 4, seed=8) + 300).float()
    found = kernel_distance(np.asarray(real), np.asarray(fake))
    assert found == kernel_distance(real.double(), fake.double())
