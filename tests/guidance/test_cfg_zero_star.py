"""CFG-Zero*: properties of the optimised scale, diffusers' own, and zero-init."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale

from guidance import CFGZeroStar, guide, table
from guidance.cfg_zero_star import cfg_zero_star
from tests import tiny

SHAPES = [(3, 6, 4), (3, 4, 5, 5), (3, 4, 2, 5, 5)]


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unconditional and conditional velocity."""
    uncond, cond = torch.randn(2, *(shape or (3, 4, 5, 5)), dtype=torch.float64)
    return uncond, cond


@pytest.mark.parametrize("factor", [-3.0, 1e-6, 250.0])
def test_size_of_uncond_does_not_matter(factor: float) -> None:
    uncond, cond = pair()
    torch.testing.assert_close(
        cfg_zero_star(factor * uncond, cond, 5.0), cfg_zero_star(uncond, cond, 5.0)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_update_is_orthogonal_to_uncond(shape: tuple[int, ...]) -> None:
    uncond, cond = pair(*shape)
    update = (cfg_zero_star(uncond, cond, 2.0) - cond).flatten(1)
    assert (update * uncond.flatten(1)).sum(1).abs().max() < 1e-10


def test_scale_zero_is_the_projection_with_diffusers_alpha() -> None:
    uncond, cond = (each.float() for each in pair())
    alpha = cfg_zero_star_scale(cond.flatten(1), uncond.flatten(1)).view(-1, 1, 1, 1)
    torch.testing.assert_close(
        cfg_zero_star(uncond, cond, 0.0), alpha * uncond, rtol=1e-5, atol=1e-6
    )
    theirs = uncond * alpha + 6.0 * (cond - uncond * alpha)
    torch.testing.assert_close(cfg_zero_star(uncond, cond, 6.0), theirs)


def test_matches_a_loop_written_from_the_equations() -> None:
    uncond, cond = pair()
    scale = torch.tensor([0.5, 4.0, 12.0], dtype=torch.float64)
    result = cfg_zero_star(uncond, cond, scale)
    for b in range(3):
        alpha = (cond[b] * uncond[b]).sum() / (uncond[b] * uncond[b]).sum()
        expected = alpha * uncond[b] + scale[b] * (cond[b] - alpha * uncond[b])
        torch.testing.assert_close(result[b], expected)


def test_neutral_and_degenerate_inputs() -> None:
    uncond, cond = pair()
    zero = torch.zeros_like(cond)
    assert torch.equal(cfg_zero_star(uncond, cond, 1.0), cond)
    assert torch.equal(cfg_zero_star(cond, cond, 9.0), cond)
    torch.testing.assert_close(cfg_zero_star(zero, cond, 3.0), 3 * cond)
    assert torch.equal(cfg_zero_star(uncond, zero, 3.0), zero)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_keeps_dtype_and_stays_finite(dtype: torch.dtype) -> None:
    uncond, cond = (300 * torch.randn(2, 2, 4, 32, 32)).to(dtype)
    result = cfg_zero_star(uncond, cond, 3.0)
    assert result.dtype == dtype
    assert result.isfinite().all()


def test_first_calls_leave_the_sample_where_it_is(sd3: Any) -> None:
    noise = torch.randn(1, 4, 8, 8)
    seen: list[torch.Tensor] = []

    def keep(pipe: Any, index: int, t: Any, state: dict[str, Any]) -> dict[str, Any]:
        seen.append(state["latents"].clone())
        return state

    rows = tiny.Rows(sd3)
    with guide(sd3, CFGZeroStar(4.0, zero_steps=2)) as run:
        tiny.sample(sd3, latents=noise, callback_on_step_end=keep)
    assert torch.equal(seen[0], noise)
    assert torch.equal(seen[1], noise)
    assert not torch.allclose(seen[2], noise, atol=1e-3)
    assert rows.seen == [1, 1, 2, 2]
    assert [record.evaluations for record in run.report.steps] == [1, 1, 2, 2]


def test_matches_a_loop_written_from_the_equations_on_a_pipeline(sd3: Any) -> None:
    embeds = sd3.encode_prompt(tiny.PROMPT, None, None, negative_prompt=tiny.NEGATIVE)
    x = noise = torch.randn(1, 4, 8, 8)
    sd3.scheduler.set_timesteps(4)
    levels = sd3.scheduler.sigmas.tolist()
    with torch.no_grad():
        for index in range(4):
            time = torch.tensor([1000 * levels[index]])
            cond, uncond = (
                sd3.transformer(x, text, pooled, time).sample
                for text, pooled in ((embeds[0], embeds[2]), (embeds[1], embeds[3]))
            )
            alpha = (cond * uncond).sum() / (uncond * uncond).sum()
            velocity = alpha * uncond + 4.0 * (cond - alpha * uncond)
            x = x + (levels[index + 1] - levels[index]) * (0 if index == 0 else velocity)
    with guide(sd3, CFGZeroStar(4.0)):
        guided = tiny.sample(sd3, latents=noise)
    torch.testing.assert_close(guided, x, rtol=1e-4, atol=1e-4)


def test_nothing_is_zeroed_at_scale_one(sd3: Any) -> None:
    plain = tiny.sample(sd3, scale=1.0)
    with guide(sd3, CFGZeroStar(table((1, 1, 1, 1)))):
        assert torch.equal(tiny.sample(sd3), plain)


@pytest.mark.parametrize("name", ["sd", "dit"])
def test_zero_init_of_other_models_raises_and_says_what_to_do(name: str) -> None:
    pipe = tiny.FAMILIES[name]()
    message = r"zero_steps=1 needs a flow model, found one that predicts 'epsilon'; write .*=0\)"
    with guide(pipe, CFGZeroStar(4.0)), pytest.raises(ValueError, match=message):
        tiny.sample(pipe)


def test_impossible_settings_raise() -> None:
    with pytest.raises(ValueError, match="CFGZeroStar: scale must be a finite number from 0 up"):
        CFGZeroStar(-1)
    with pytest.raises(ValueError, match=r"zero_steps must be a whole number, found 1\.5"):
        CFGZeroStar(zero_steps=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="zero_steps must be a finite number from 0 up"):
        CFGZeroStar(zero_steps=-1)
    with pytest.raises(TypeError, match="zero_steps must be a finite number from 0 up"):
        CFGZeroStar(zero_steps=True)
