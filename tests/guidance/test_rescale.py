"""Rescaling: identities, diffusers' own function, and the pipelines' own rescaling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from guidance import CFG, Rescale, guide
from guidance.rescale import rescale
from tests import tiny


def test_phi_zero_is_the_identity() -> None:
    guided, cond = torch.randn(2, 3, 4, 8, 8)
    assert rescale(guided, cond, 0.0) is guided


@pytest.mark.parametrize("shape", [(3, 6, 4), (3, 4, 5, 5), (3, 4, 2, 5, 5)])
def test_phi_one_gives_the_spread_of_cond(shape: tuple[int, ...]) -> None:
    guided, cond = torch.randn(2, *shape, dtype=torch.float64)
    result = rescale(5 * guided, cond, 1.0)
    torch.testing.assert_close(result.flatten(1).std(1), cond.flatten(1).std(1))
    torch.testing.assert_close(result, rescale(guided, cond, 1.0))


@pytest.mark.parametrize("phi", [0.3, 0.7, 1.0])
def test_equals_diffusers(phi: float) -> None:
    guided, cond = torch.randn(2, 3, 4, 8, 8)
    torch.testing.assert_close(rescale(guided, cond, phi), rescale_noise_cfg(guided, cond, phi))


def test_matches_a_loop_written_from_the_equations() -> None:
    guided, cond = torch.randn(2, 2, 4, 3, 3, dtype=torch.float64)
    for sample, reference, result in zip(guided, cond, rescale(guided, cond, 0.6), strict=True):
        n = sample.numel()
        sd_g = (((sample - sample.mean()) ** 2).sum() / (n - 1)) ** 0.5
        sd_c = (((reference - reference.mean()) ** 2).sum() / (n - 1)) ** 0.5
        torch.testing.assert_close(result, 0.6 * sample * sd_c / sd_g + 0.4 * sample)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_keeps_dtype_and_stays_finite(dtype: torch.dtype) -> None:
    guided, cond = (300 * torch.randn(2, 2, 4, 32, 32)).to(dtype)
    result = rescale(guided, cond, 0.7)
    assert result.dtype == dtype
    assert result.isfinite().all()


def test_prediction_without_spread_is_left_alone() -> None:
    flat = torch.full((1, 4, 3, 3), 2.0)
    assert torch.equal(rescale(flat, torch.randn(1, 4, 3, 3), 0.5), flat)


def test_follows_guidance_like_the_pipelines_own(sd: Any) -> None:
    native = tiny.sample(sd, scale=6.5, guidance_rescale=0.7)
    with guide(sd, CFG(6.5) + Rescale(0.7)):
        guided = tiny.sample(sd, scale=2.0)
    torch.testing.assert_close(guided, native, rtol=1e-5, atol=1e-4)
    assert not torch.allclose(native, tiny.sample(sd, scale=6.5), atol=1e-2)


def test_alone_leaves_the_conditional_prediction(pipe: Any) -> None:
    plain = tiny.sample(pipe, scale=1.0)
    with guide(pipe, Rescale(0.7)):
        torch.testing.assert_close(tiny.sample(pipe, scale=5.0), plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("phi", [-0.1, 1.1, float("nan")])
def test_phi_out_of_range_raises(phi: float) -> None:
    with pytest.raises(ValueError, match=r"Rescale: phi must be a finite number from 0 to 1"):
        Rescale(phi)
