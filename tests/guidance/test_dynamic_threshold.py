"""Dynamic thresholding: closed forms, torch's quantile, diffusers' schedulers, and runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from guidance import CFG, DynamicThreshold, guide
from guidance.dynamic_threshold import dynamic_threshold
from tests import tiny


@pytest.mark.parametrize("floor", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_values_within_the_floor_are_unchanged(floor: float, dtype: torch.dtype) -> None:
    x0 = floor * torch.linspace(-0.99, 0.99, 200, dtype=torch.float64).view(2, 4, 5, 5)
    x0 = x0.to(dtype)
    assert torch.equal(dynamic_threshold(x0, 0.9, floor), x0)


def test_percentile_of_known_values() -> None:
    x0 = torch.tensor([[-4.0, 3.0, -2.0, 1.0, 0.0]])
    expected = {1.0: [-1, 0.75, -0.5, 0.25, 0], 0.5: [-1, 1, -1, 0.5, 0], 0.0: [-1, 1, -1, 1, 0]}
    for percentile, values in expected.items():
        assert dynamic_threshold(x0, percentile, 1.0)[0].tolist() == pytest.approx(values)
    assert dynamic_threshold(x0, 0.625, 2.0)[0].tolist() == pytest.approx([-2, 2, -1.6, 0.8, 0])


@pytest.mark.parametrize("shape", [(3, 6, 4), (3, 4, 5, 5), (3, 4, 2, 5, 5), (3, 1)])
@pytest.mark.parametrize("percentile", [0.3, 0.95, 0.995, 1.0])
def test_matches_a_loop_written_from_the_equations(
    shape: tuple[int, ...], percentile: float
) -> None:
    x0 = torch.randn(*shape, dtype=torch.float64) * torch.tensor([0.2, 1.0, 5.0]).double().view(
        -1, *[1] * (len(shape) - 1)
    )
    result = dynamic_threshold(x0, percentile, 0.8)
    for sample, bounded in zip(x0, result, strict=True):
        s = max(float(torch.quantile(sample.abs().flatten(), percentile)), 0.8)
        torch.testing.assert_close(bounded, sample.clamp(-s, s) / s * 0.8)
    assert result.abs().max() <= 0.8 + 1e-12


def test_equals_the_thresholding_of_diffusers_schedulers() -> None:
    x0 = 3 * torch.randn(2, 3, 8, 8)
    scheduler: Any = DDIMScheduler(
        thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=100.0
    )
    torch.testing.assert_close(dynamic_threshold(x0, 0.9, 1.0), scheduler._threshold_sample(x0))


def test_more_values_than_torch_quantile_takes() -> None:
    x0 = torch.zeros(1, 2**24 + 8)
    x0[0, :4] = 5.0
    result = dynamic_threshold(x0, 1.0, 1.0)
    assert result[0, :4].tolist() == [1.0] * 4
    assert result.sum() == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_keeps_dtype_and_stays_finite(dtype: torch.dtype) -> None:
    result = dynamic_threshold((3000 * torch.randn(2, 4, 32, 32)).to(dtype), 0.995, 1.0)
    assert result.dtype == dtype
    assert result.abs().max() <= 1
    assert not dynamic_threshold(torch.zeros(1, 4, dtype=dtype), 0.995, 1.0).any()


def test_last_step_of_ddim_lands_within_the_floor(sd: Any) -> None:
    rule = CFG(9.0) + DynamicThreshold(0.9, floor=0.3)
    free = tiny.sample(sd, scale=9.0)
    with guide(sd, rule):
        bounded = tiny.sample(sd)
    assert free.abs().max() > 0.6
    sd.scheduler = DDIMScheduler.from_config(sd.scheduler.config, set_alpha_to_one=True)
    assert bounded.abs().max() < free.abs().max()
    with guide(sd, rule):
        assert tiny.sample(sd).abs().max() <= 0.3 + 1e-5


def test_equals_the_schedulers_thresholding_over_a_run(sd: Any) -> None:
    """With one step, to alpha 1, the noise that the scheduler does not re-derive has no weight."""
    sd.scheduler = DDIMScheduler.from_config(sd.scheduler.config, set_alpha_to_one=True)
    with guide(sd, DynamicThreshold(0.9, floor=1.0)):
        guided = tiny.sample(sd, steps=1)
    sd.scheduler = DDIMScheduler.from_config(
        sd.scheduler.config,
        thresholding=True,
        dynamic_thresholding_ratio=0.9,
        sample_max_value=1e6,
    )
    torch.testing.assert_close(guided, tiny.sample(sd, scale=1.0, steps=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"percentile": 99.5}, "percentile must be a finite number from 0 to 1, found 99.5"),
        ({"floor": -1}, "floor must be a finite number from 0 up"),
        ({"floor": 0}, "floor must be above 0"),
    ],
)
def test_impossible_settings_raise(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"DynamicThreshold: {message}"):
        DynamicThreshold(**settings)
