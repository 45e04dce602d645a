"""Tiny denoisers with random weights and inputs in float64, called without a pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import (
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)

from guidance.core.perturb import Call, Perturbation

ROWS = 3
HEADS: dict[str, Any] = {"num_attention_heads": 4, "attention_head_dim": 8}


@dataclass(frozen=True)
class Bare:
    """A denoiser, inputs of three different rows, and how many text tokens join its sequence."""

    model: Any
    inputs: dict[str, Any]
    text: int = 0
    size: tuple[int, ...] = (8, 6)

    def call(self, rows: slice) -> Call:
        sample = next(iter(self.inputs.values()))
        return Call(rows, len(sample), self.text, self.size)

    def twins(self) -> Bare:
        """The same with the first row twice."""
        inputs = {
            name: value[[0, 0]] if torch.is_tensor(value) and len(value) == ROWS else value
            for name, value in self.inputs.items()
        }
        return replace(self, inputs=inputs)

    def run(self, perturbation: Perturbation | None = None, rows: slice = slice(1, 2)) -> Any:
        """Prediction of all rows, with a perturbation of some of them."""
        with torch.no_grad():
            if perturbation is None:
                return self.model(**self.inputs)[0]
            with perturbation.applied(self.model, self.call(rows)):
                return self.model(**self.inputs)[0]

    def inside(
        self, path: str, perturbation: Perturbation | None = None, rows: slice = slice(1, 2)
    ) -> Any:
        """Output of one module during a run."""
        seen: list[Any] = []

        def look(module: torch.nn.Module, args: Any, output: Any) -> None:
            seen.append(output)

        with torch.no_grad():
            if perturbation is None:
                with hooked(self.model.get_submodule(path), look):
                    self.model(**self.inputs)
            else:
                with (
                    perturbation.applied(self.model, self.call(rows)),
                    hooked(self.model.get_submodule(path), look),
                ):
                    self.model(**self.inputs)
        return seen[0]


@contextmanager
def hooked(module: torch.nn.Module, hook: Any) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def hooks_of(model: torch.nn.Module) -> int:
    """How many hooks sit in a model, and function modes on the stack."""
    inside = sum(
        len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()
    )
    return inside + torch._C._len_torch_function_stack()


def bare(model: Any, inputs: dict[str, Any], text: int = 0, size: tuple[int, ...] = (8, 6)) -> Bare:
    """A model in float64 whose zero initial weights are random."""
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    inputs = {
        name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    return Bare(model.double().eval(), inputs | {"return_dict": False}, text, size)


def unet(**changes: Any) -> Bare:
    """Stable Diffusion layout."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 12,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    inputs = {
        "sample": torch.randn(ROWS, 4, 8, 6),
        "timestep": 7,
        "encoder_hidden_states": torch.randn(ROWS, 5, 12),
    }
    return bare(UNet2DConditionModel(**settings | changes), inputs)


def ddpm() -> Bare:
    """Unconditional pixel UNet: attention with norm and residual inside, on 4-D inputs."""
    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return bare(model, {"sample": torch.randn(ROWS, 3, 8, 6), "timestep": 7})


def added() -> Bare:
    """Kandinsky 2 layout: self-attention with text among its keys, on 4-D inputs."""
    return unet(
        down_block_types=("DownBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "UpBlock2D"),
    )


def sd3(**changes: Any) -> Bare:
    """Stable Diffusion 3 layout: 12 image tokens, then 5 text tokens."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "num_layers": 3,
        "caption_projection_dim": 32,
        "joint_attention_dim": 12,
        "pooled_projection_dim": 10,
        "out_channels": 4,
    }
    inputs = {
        "hidden_states": torch.randn(ROWS, 4, 8, 6),
        "timestep": torch.full((ROWS,), 7.0),
        "encoder_hidden_states": torch.randn(ROWS, 5, 12),
        "pooled_projections": torch.randn(ROWS, 10),
    }
    return bare(SD3Transformer2DModel(**HEADS | settings | changes), inputs, text=5)


def sd35() -> Bare:
    """Stable Diffusion 3.5 medium layout: normed queries and keys, image attention in block 0."""
    return sd3(qk_norm="rms_norm", dual_attention_layers=(0,))


def flux(tokens: int = 12) -> Bare:
    """FLUX layout: 5 text tokens, then image tokens; double and single blocks."""
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        **HEADS,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        axes_dims_rope=(2, 2, 4),
    )
    inputs = {
        "hidden_states": torch.randn(ROWS, tokens, 4),
        "timestep": torch.full((ROWS,), 0.7),
        "encoder_hidden_states": torch.randn(ROWS, 5, 12),
        "pooled_projections": torch.randn(ROWS, 10),
        "img_ids": torch.randint(0, 4, (tokens, 3)).float(),
        "txt_ids": torch.zeros(5, 3),
    }
    return bare(model, inputs, text=5, size=())


def pixart() -> Bare:
    """PixArt layout: transformer blocks with cross-attention."""
    torch.manual_seed(0)
    model = PixArtTransformer2DModel(
        **HEADS,
        in_channels=4,
        out_channels=4,
        sample_size=8,
        num_layers=3,
        cross_attention_dim=32,
        caption_channels=12,
        use_additional_conditions=False,
    )
    inputs = {
        "hidden_states": torch.randn(ROWS, 4, 8, 6),
        "timestep": torch.full((ROWS,), 7),
        "encoder_hidden_states": torch.randn(ROWS, 5, 12),
        "added_cond_kwargs": {},
    }
    return bare(model, inputs)


MODELS = {
    "unet": unet,
    "ddpm": ddpm,
    "added": added,
    "sd3": sd3,
    "sd35": sd35,
    "flux": flux,
    "pixart": pixart,
}
