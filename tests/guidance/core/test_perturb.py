"""What perturbations know of a call, and the push away from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from guidance.core.perturb import Call, push_away


def test_a_row_may_stand_for_many_frames() -> None:
    call = Call(slice(1, 2), 3, 0, ())
    assert call.rows_of(torch.zeros(12, 2), "layer") == slice(4, 8)
    with pytest.raises(ValueError, match="layer works on 4 rows where the denoiser was given 3"):
        call.rows_of(torch.zeros(4, 2), "layer")


@pytest.mark.parametrize(
    ("size", "sides"),
    [((8, 6), (8, 6)), ((1, 8, 6), (8, 6)), ((), None), ((5, 8, 6), None), ((9,), None)],
)
def test_sides_of_a_picture(size: tuple[int, ...], sides: Any) -> None:
    assert Call(slice(0, 1), 1, 0, size).sides == sides


def test_the_push_is_linear_and_keeps_the_dtype() -> None:
    cond, worse = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    pushed = push_away(cond, worse, 2.5)
    torch.testing.assert_close(pushed, worse + 3.5 * (cond - worse))
    assert torch.equal(push_away(cond, cond, 7.0), cond)
    assert torch.equal(push_away(cond, worse, 0.0), cond)
    half = push_away(torch.full((1, 4), 6e4).half(), torch.full((1, 4), 6e4).half(), 9.0)
    assert half.dtype == torch.float16
    assert half.isfinite().all()
