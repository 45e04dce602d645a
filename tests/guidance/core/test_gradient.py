"""Gradients by sample: right, for each image alone, and without a trace."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from guidance.core.gradient import finite_rows, gradient


def test_values_and_slopes_of_each_sample() -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    values, slopes = gradient(lambda x: x.sin().sum((1, 2)), x, "loss")
    torch.testing.assert_close(values, x.sin().sum((1, 2)))
    torch.testing.assert_close(slopes, x.cos())


@pytest.mark.parametrize("enabled", [False, True])
def test_leaves_no_trace(enabled: bool) -> None:
    network, x = nn.Linear(4, 1), torch.randn(3, 4)
    with torch.set_grad_enabled(enabled):
        values, slopes = gradient(lambda x: network(x)[:, 0], x, "loss")
        assert torch.is_grad_enabled() == enabled
    torch.testing.assert_close(slopes, network.weight.expand(3, 4))
    assert not any(item.requires_grad for item in (values, slopes, x))
    assert network.weight.grad is network.bias.grad is x.grad is None


def test_own_gradients_are_not_followed() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    values, slopes = gradient(lambda x: x.square().sum(1), 2 * x, "loss")
    assert not values.requires_grad
    assert not slopes.requires_grad


def test_what_cannot_be_differentiated_is_named() -> None:
    x, weight = torch.randn(3, 4), torch.ones(3, requires_grad=True)
    for function in (lambda x: x.detach().sum(1), lambda x: 2 * weight):
        with pytest.raises(ValueError, match="loss must be differentiable, found a result"):
            gradient(function, x, "loss")
    for wrong in (lambda x: x.sum(), lambda x: x):
        with pytest.raises(ValueError, match="loss must return one number for each of the 3"):
            gradient(wrong, x, "loss")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite_become_zero(bad: float) -> None:
    rows = torch.ones(3, 2, 2)
    rows[1, 0, 1] = bad
    finite, lost = finite_rows(rows)
    expected = torch.ones(3, 2, 2)
    expected[1] = 0
    assert torch.equal(finite, expected)
    assert lost == 1


def test_an_image_does_not_spoil_the_others() -> None:
    def loss(x: Tensor) -> Tensor:
        return x.square().sum(1).sqrt()

    values, slopes = gradient(loss, torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "loss")
    assert values.tolist() == [5, 0]
    torch.testing.assert_close(slopes[0], torch.tensor([0.6, 0.8]))
    assert slopes[1].isnan().all()
