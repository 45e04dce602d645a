"""The table of denoisers, one row each; see ``Family`` for the meaning of the fields."""

from __future__ import annotations

from guidance.core.family import Family, per_mille, register_family
from guidance.core.prediction import COND, UNCOND

_SKIP_LAYERS = "it calls the denoiser a second time per step"

_JOINT_CONTROL = ("controlnet_block_samples", "controlnet_single_block_samples")

_TRUE_CFG = "true_cfg_scale above 1 and a negative_prompt"

FAMILIES = (
    Family(
        model="UNet2DConditionModel",
        sample="sample",
        rows=(
            "sample",
            "timestep",
            "encoder_hidden_states",
            "class_labels",
            "timestep_cond",
            "attention_mask",
            "encoder_attention_mask",
            "added_cond_kwargs",
            "cross_attention_kwargs.gligen",
            "down_block_additional_residuals",
            "mid_block_additional_residual",
            "down_intrablock_additional_residuals",
        ),
        stepwise=(
            "timestep_cond",
            "cross_attention_kwargs",
            "down_block_additional_residuals",
            "mid_block_additional_residual",
            "down_intrablock_additional_residuals",
        ),
    ),
    Family(
        model="UNet2DModel",
        sample="sample",
        rows=("sample", "timestep", "class_labels"),
        order=(COND,),
        text=(),
    ),
    Family(
        model="DiTTransformer2DModel",
        rows=("hidden_states", "timestep", "class_labels"),
        order=(COND, UNCOND),
        text=(),
    ),
    Family(
        model="SD3Transformer2DModel",
        rows=(
            "hidden_states",
            "timestep",
            "encoder_hidden_states",
            "pooled_projections",
            "block_controlnet_hidden_states",
            "joint_attention_kwargs.ip_adapter_image_embeds",
        ),
        stepwise=("block_controlnet_hidden_states", "joint_attention_kwargs"),
        text=("encoder_hidden_states", "pooled_projections"),
        tokens=("image", "text"),
        refused={"skip_guidance_layers": _SKIP_LAYERS, "skip_layers": _SKIP_LAYERS},
    ),
    Family(
        model="FluxTransformer2DModel",
        rows=(
            "hidden_states",
            "timestep",
            "guidance",
            "encoder_hidden_states",
            "pooled_projections",
            *_JOINT_CONTROL,
        ),
        separate=True,
        stepwise=(*_JOINT_CONTROL, "joint_attention_kwargs"),
        text=("encoder_hidden_states", "pooled_projections"),
        tokens=("text", "image"),
        channels=-1,
        scale="true_cfg_scale",
        switch=_TRUE_CFG,
        time=per_mille,
    ),
)

for _family in FAMILIES:
    register_family(_family)
