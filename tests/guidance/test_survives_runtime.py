"""Guidance under whatever changes how a denoiser runs: offloading, compilation, attention."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from guidance import CFG, guide
from tests import tiny
from tests.guidance import survival
from tests.guidance.survival import AWAY_FROM_MUTE, Away
from tests.tiny import close


def models(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def groups(pipe: Any) -> None:
    here = torch.device("cpu")
    pipe.enable_group_offload(
        onload_device=here, offload_device=here, offload_type="block_level", num_blocks_per_group=1
    )


def leaves(pipe: Any) -> None:
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")


OFFLOADING = (models, groups, leaves)


@pytest.mark.parametrize("offload", OFFLOADING)
@pytest.mark.parametrize("build", [tiny.sd, tiny.sd3])
def test_offloading(build: Callable[[], Any], offload: Callable[[Any], None]) -> None:
    pipe, resident = build(), build()
    part = survival.SELF_ATTENTION if build is tiny.sd else "transformer_blocks.0.ff"
    rule = CFG(5.0) + Away() + survival.away_from_mute(part)
    with guide(resident, rule):
        expected = tiny.sample(resident, scale=2.0, batch=2)
    offload(pipe)
    survival.check(pipe)
    with guide(pipe, rule):
        for _ in range(2):
            close(tiny.sample(pipe, scale=2.0, batch=2), expected)


def test_offloading_that_begins_in_the_block(sd: Any) -> None:
    native = tiny.sample(sd, scale=5.0)
    with guide(sd, CFG(5.0)):
        sd.enable_model_cpu_offload(device="cpu")
        for _ in range(2):
            assert torch.equal(tiny.sample(sd, scale=2.0), native)
        sd.remove_all_hooks()
        assert torch.equal(tiny.sample(sd, scale=2.0), native)
    assert torch.equal(tiny.sample(sd, scale=5.0), native)


def test_attention_slicing(sd: Any) -> None:
    sd.enable_attention_slicing(1)
    survival.check(sd)
    native = tiny.sample(sd, scale=5.0)
    with guide(sd, CFG(5.0)):
        sd.disable_attention_slicing()
        close(tiny.sample(sd, scale=2.0), native)


def test_attention_backend(sd3: Any) -> None:
    default = tiny.sample(sd3)
    sd3.transformer.set_attention_backend("_native_math")
    survival.check(sd3)
    with guide(sd3, CFG(5.0)):
        sd3.transformer.reset_attention_backend()
        close(tiny.sample(sd3, scale=2.0), default)


class Backend:
    """A compiler that leaves the graph as it is, and counts."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, module: torch.fx.GraphModule, example: Any) -> Callable[..., Any]:
        self.graphs += 1
        return module.forward


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    torch._dynamo.reset()
    yield Backend()
    torch._dynamo.reset()


def compile_wrapped(pipe: Any, backend: Backend) -> None:
    pipe.unet = torch.compile(pipe.unet, backend=backend, dynamic=False)


def compile_in_place(pipe: Any, backend: Backend) -> None:
    pipe.unet.compile(backend=backend, dynamic=False)


def compile_blocks(pipe: Any, backend: Backend) -> None:
    for block in (*pipe.unet.down_blocks, pipe.unet.mid_block, *pipe.unet.up_blocks):
        block.compile(backend=backend, dynamic=False)


COMPILERS = (compile_wrapped, compile_in_place, compile_blocks)


def small() -> Any:
    """Stable Diffusion with one block each way."""
    return tiny.sd(
        block_out_channels=(tiny.WIDTH,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
    )


@pytest.mark.parametrize("compile_", COMPILERS)
def test_compiled_once_and_never_again(
    backend: Backend, compile_: Callable[[Any, Backend], None]
) -> None:
    """Rows of a perturbation run alone and not compiled: hooks come and go behind the guards."""
    sd = small()
    plain = tiny.sample(sd, scale=5.0)
    rules = {
        CFG(5.0): 8,
        CFG(5.0) + AWAY_FROM_MUTE: 12,
        CFG(5.0).between(0, 0.5) + Away(): 10,
    }
    expected = []
    for rule in rules:
        with guide(sd, rule):
            expected.append(tiny.sample(sd, scale=2.0))
    compile_(sd, backend)
    graphs = []
    for _ in range(2):
        for (rule, evaluations), image in zip(rules.items(), expected, strict=True):
            with guide(sd, rule) as run:
                close(tiny.sample(sd, scale=2.0), image)
            assert run.report.nfe == evaluations
            graphs.append(backend.graphs)
    assert 0 < graphs[0] == graphs[1] <= graphs[2] == graphs[5]
    close(tiny.sample(sd, scale=5.0), plain)
