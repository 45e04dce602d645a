"""Radii and membership against loops over all pairs."""

import pytest
import torch
from torch import Tensor

from apps.evaluate.numbers import neighbours
from apps.evaluate.numbers.neighbours import membership, radii


def slow_radii(features: Tensor, k: int) -> list[float]:
    return [
        sorted((x - y).norm().item() for j, y in enumerate(features) if j != i)[k - 1]
        for i, x in enumerate(features)
    ]


def slow_inside(points: Tensor, centres: Tensor, k: int) -> Tensor:
    """bool (P, C), whether a point lies in a ball."""
    reach = slow_radii(centres, k)
    return torch.tensor(
        [[(x - y).norm().item() <= r for y, r in zip(centres, reach, strict=True)] for x in points]
    )


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, the last of them shorter."""
    monkeypatch.setattr("apps.evaluate.numbers.arrays.BLOCK", 7)
    monkeypatch.setattr(neighbours, "BLOCK", 7)


@pytest.mark.parametrize("k", [1, 3, 19])
def test_radii_reach_to_the_kth_other_row(k: int) -> None:
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(k)).double()
    assert radii(features, k).tolist() == pytest.approx(slow_radii(features, k), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_membership_is_that_of_all_pairs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(23, 3, generator=generator).double()
    points = torch.randn(16, 3, generator=generator).double()
    inside = slow_inside(points, centres, 3)
    found = membership(points, centres, radii(centres, 3))
    assert found.balls.tolist() == inside.sum(1).tolist()
    assert found.points.tolist() == inside.sum(0).tolist()


@pytest.mark.parametrize("offset", [0, 0.1, 1e7])
@pytest.mark.parametrize("seed", range(5))
def test_ties_and_repeated_rows_count_as_they_do_in_integers(seed: int, offset: float) -> None:
    """On a grid most neighbours are tied; the slow loop is exact there, the offset is not."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randint(4, (30, 3), generator=generator).double()
    points = torch.randint(4, (25, 3), generator=generator).double()
    inside = slow_inside(points, centres, 3)
    found = membership(points + offset, centres + offset, radii(centres + offset, 3))
    assert found.balls.tolist() == inside.sum(1).tolist()
    assert found.points.tolist() == inside.sum(0).tolist()


def test_equal_rows_are_at_distance_0() -> None:
    features = torch.randn(5, 300, generator=torch.Generator().manual_seed(0)) * 100 + 1000
    twice = features.repeat(2, 1)
    assert radii(twice, 1).tolist() == [0] * 10
    found = membership(features, twice, radii(twice, 1))
    assert found.balls.tolist() == [2] * 5
    assert found.points.tolist() == [1] * 10


def test_a_neighbour_lies_on_the_edge_of_its_ball() -> None:
    """Of its own row and k neighbours each ball of a set holds at least k + 1."""
    features = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    assert membership(features, features, radii(features, 5)).points.tolist() == [6] * 40


@pytest.mark.parametrize("k", [0, -1, 4, 5])
def test_k_is_less_than_the_number_of_rows(k: int) -> None:
    with pytest.raises(ValueError, match=rf"^k is {k}; .* less than the 4 pictures of a set$"):
        radii(torch.eye(4), k)
