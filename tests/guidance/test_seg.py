"""Blurred queries: the authors' kernel, grids of any shape, constants and means."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guidance import CFG, Rule, guide, parse_rule
from guidance.core.heads import resolve_layers
from guidance.seg import SEG, Blurred, blur
from tests import tiny, tiny_families
from tests.guidance import bare
from tests.tiny import close


def queries(high: int, wide: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, high * wide, 4, generator=generator, dtype=torch.float64)


def authors_blur(query: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """The authors' blur, one axis at a time so that it fits grids that are not square."""
    grid = query.unflatten(2, size).permute(0, 1, 4, 2, 3).flatten(0, 2)[:, None]
    for axis, side in enumerate(size):
        width = math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2
        width = min(width, side - (side % 2 - 1))
        x = torch.linspace(-(width - 1) / 2, (width - 1) / 2, steps=width)
        kernel = torch.exp(-0.5 * (x.double() / sigma) ** 2)
        pad = [width // 2] * 2 + [0, 0] if axis else [0, 0] + [width // 2] * 2
        shape = (1, 1, 1, width) if axis else (1, 1, width, 1)
        padded = nn.functional.pad(grid, pad, mode="reflect")
        grid = nn.functional.conv2d(padded, (kernel / kernel.sum()).view(shape))
    grid = grid[:, 0].unflatten(0, (2, 3, 4))
    return grid.permute(0, 1, 3, 4, 2).flatten(2, 3)


@pytest.mark.parametrize("size", [(8, 8), (5, 5), (4, 9), (2, 7), (3, 1)])
@pytest.mark.parametrize("sigma", [0.2, 1.0, 2.5, 50.0])
def test_is_the_authors_blur(size: tuple[int, int], sigma: float) -> None:
    query = queries(*size)
    expected = authors_blur(query, size, sigma)
    torch.testing.assert_close(blur(query, size, sigma), expected, rtol=0, atol=1e-12)


def test_matches_weights_written_token_by_token() -> None:
    query, sigma = queries(4, 5), 0.5
    result = blur(query, (4, 5), sigma)
    weights = {offset: math.exp(-0.5 * (offset / sigma) ** 2) for offset in (-1, 0, 1)}
    total = sum(weights.values())
    for y in range(4):
        for x in range(5):
            token = torch.zeros_like(query[:, :, 0])
            for dy, wy in weights.items():
                for dx, wx in weights.items():
                    row, column = abs(y + dy), abs(x + dx)
                    row, column = min(row, 6 - row), min(column, 8 - column)
                    token = token + wy * wx / total**2 * query[:, :, 5 * row + column]
            torch.testing.assert_close(result[:, :, 5 * y + x], token)


def test_constant_queries_stay_and_blurs_commute_with_sums() -> None:
    one, other = queries(4, 6), queries(6, 4)
    flat = one[:, :, :1].expand_as(one)
    torch.testing.assert_close(blur(flat, (4, 6), 2.0), flat)
    both = blur(one + 2 * other, (4, 6), 1.5)
    torch.testing.assert_close(both, blur(one, (4, 6), 1.5) + 2 * blur(other, (4, 6), 1.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_keeps_dtype_and_stays_finite(dtype: torch.dtype) -> None:
    query = (200 * queries(8, 8)).to(dtype)
    blurred = blur(query, (8, 8), 2.0)
    assert blurred.dtype == dtype
    assert blurred.isfinite().all()


def hooked_reference(model: bare.Bare, layer: str, change: Any) -> Tensor:
    """The model with the projected queries of a layer changed in the middle row."""

    def project(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[1:2] = change(output[1:2, None])[:, 0]
        return changed

    (chosen,) = resolve_layers(model.model, layer)
    with bare.hooked(chosen.module.to_q, project):  # type: ignore[arg-type]
        return model.run()


@pytest.mark.parametrize(
    ("build", "layer", "grid"),
    [
        (bare.unet, "mid", (4, 3)),
        (bare.ddpm, "mid", (4, 3)),
        (bare.pixart, "transformer_blocks.2", (4, 3)),
        (bare.sd3, "transformer_blocks.1", (4, 3)),
    ],
)
@pytest.mark.parametrize("sigma", [0.7, 3.0, None])
def test_blurs_the_projected_queries(
    build: Any, layer: str, grid: tuple[int, int], sigma: float | None
) -> None:
    model = build()
    expected = hooked_reference(
        model,
        layer,
        lambda query: (
            query.mean(2, keepdim=True).expand_as(query)
            if sigma is None
            else blur(query, grid, sigma)
        ),
    )
    blurred, plain = model.run(Blurred(layer, sigma)), model.run()
    torch.testing.assert_close(blurred, expected, rtol=0, atol=1e-11)
    assert torch.equal(blurred[[0, 2]], plain[[0, 2]])
    assert not torch.allclose(blurred[1], plain[1], atol=1e-6)


def test_every_level_of_a_unet_has_its_grid() -> None:
    model = bare.unet(
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2
    )
    layers = ("down_blocks.0", "down_blocks.1", "mid", "up_blocks.*")
    assert not torch.allclose(model.run(Blurred(layers, 1.0)), model.run())
    assert bare.hooks_of(model.model) == 0


def test_text_queries_stay() -> None:
    for build in (bare.sd3, bare.flux):
        model = build()
        path = "transformer_blocks.0.attn"
        plain, changed = model.inside(path), model.inside(path, Blurred(path))
        assert torch.equal(changed[1], plain[1])
        assert not torch.allclose(changed[0][1], plain[0][1])


def test_a_grid_is_needed_only_for_a_finite_blur() -> None:
    model = bare.flux()
    model.run(Blurred("single_transformer_blocks.0"))
    with pytest.raises(ValueError, match=r"grid of the 12 tokens in single.*unknown.*blur=None"):
        model.run(Blurred("single_transformer_blocks.0", 1.0))
    assert bare.hooks_of(model.model) == 0


@pytest.mark.parametrize("rule", [SEG(2.0), SEG(2.0, blur=0.5)])
def test_runs_beside_the_pipelines_guidance(rule: Rule, pipe: Any) -> None:
    native = tiny.sample(pipe, scale=3.0, batch=2)
    with guide(pipe, CFG(3.0) + rule) as run:
        joint = tiny.sample(pipe, batch=2)
        close(tiny.sample(pipe)[0], joint[0])
    assert [record.evaluations for record in run.report.steps] == [3] * 8
    assert not torch.allclose(joint, native, atol=1e-3)
    with guide(pipe, CFG(3.0) + rule, batching="sequential"):
        close(tiny.sample(pipe, batch=2), joint)
    assert torch.equal(tiny.sample(pipe, scale=3.0, batch=2), native)


def test_works_on_an_unconditional_model() -> None:
    family = tiny_families.FAMILIES["ddpm"]
    pipe = family()
    plain = family.call(pipe)
    with guide(pipe, SEG(blur=1.0)):
        assert not torch.allclose(family.call(pipe), plain, atol=1e-4)


@pytest.mark.parametrize("neutral", [SEG(0.0), SEG(3.0, blur=0.0)])
def test_neutral_settings_cost_nothing(neutral: Rule, sd: Any) -> None:
    plain = tiny.sample(sd, scale=1.0)
    with guide(sd, neutral) as run:
        assert torch.equal(tiny.sample(sd), plain)
    assert run.report.nfe == 4


@pytest.mark.parametrize("rule", [SEG(), SEG(2.0, blur=1.5, layers=("mid", "up_blocks.0"))])
def test_settings_survive_text_and_json(rule: Rule) -> None:
    assert Rule.from_config(json.loads(json.dumps(rule.to_config()))) == rule
    assert parse_rule(repr(rule)) == rule


def test_impossible_settings_raise(sd: Any) -> None:
    for blurred in (-1.0, math.inf):
        with pytest.raises(ValueError, match="SEG: blur must be a finite number from 0 up"):
            SEG(blur=blurred)
    with pytest.raises(ValueError, match="SEG: layers takes whole layers"):
        SEG(layers="mid:0")
    with pytest.raises(ValueError, match="no attention layer 'middle'"):
        guide(sd, SEG(layers="middle"))
