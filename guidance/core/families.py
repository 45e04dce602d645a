"""The table of denoisers, one row each; see ``Family`` for the meaning of the fields."""

from __future__ import annotations

import torch
from torch import Tensor

from guidance.core.family import (
    Family,
    Setting,
    per_mille,
    register_family,
    reversed_per_mille,
)
from guidance.core.prediction import COND, UNCOND


def _extrapolated(uncond: Tensor, cond: Tensor, w: float, setting: Setting) -> Tensor:
    """Guidance as pipelines write it whose scale of 0 is neutral."""
    return cond + (w - 1) * (cond - uncond)


def _renormalised(uncond: Tensor, cond: Tensor, w: float, setting: Setting) -> Tensor:
    """Guidance scaled back to the size of the conditional prediction, token by token."""
    guided = uncond + w * (cond - uncond)
    size = torch.norm(cond, dim=-1, keepdim=True) / torch.norm(guided, dim=-1, keepdim=True)
    return guided * size


def _lumina2(uncond: Tensor, cond: Tensor, w: float, setting: Setting) -> Tensor:
    """Renormalised unless the call's ``cfg_normalization`` is off."""
    if setting("cfg_normalization"):
        return _renormalised(uncond, cond, w, setting)
    return uncond + w * (cond - uncond)


def _z_image(uncond: Tensor, cond: Tensor, w: float, setting: Setting) -> Tensor:
    """No longer than ``cfg_normalization`` times the conditional prediction, if that is given."""
    guided = _extrapolated(uncond, cond, w, setting)
    longest = float(setting("cfg_normalization") or 0.0)
    if not longest:
        return guided
    axes = tuple(range(1, cond.ndim))
    size = torch.linalg.vector_norm(guided, dim=axes, keepdim=True)
    limit = longest * torch.linalg.vector_norm(cond, dim=axes, keepdim=True)
    return torch.where(size > limit, guided * (limit / size), guided)


def _lumina(uncond: Tensor, cond: Tensor, w: float, setting: Setting) -> Tensor:
    """Only the first three channels are guided."""
    guided = uncond[:, :3] + w * (cond[:, :3] - uncond[:, :3])
    return torch.cat([guided, cond[:, 3:]], dim=1)


_SKIP_LAYERS = "it calls the denoiser a second time per step"
_CONTROL = ("controlnet_block_samples", "controlnet_single_block_samples")
_UNET_CONTROL = (
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "down_intrablock_additional_residuals",
)
_UNET = (
    "sample",
    "timestep",
    "encoder_hidden_states",
    "class_labels",
    "timestep_cond",
    "attention_mask",
    "encoder_attention_mask",
    "added_cond_kwargs",
    "cross_attention_kwargs.gligen",
    *_UNET_CONTROL,
)
_BASIC = ("hidden_states", "timestep", "encoder_hidden_states")
_TRUE_CFG = "true_cfg_scale above 1 and a negative_prompt"
_NEGATIVE = "guidance_scale above 1 and a negative_prompt"
_TEXT_POOLED = ("encoder_hidden_states", "pooled_projections")

FAMILIES = (
    Family(
        "UNet2DConditionModel",
        sample="sample",
        rows=_UNET,
        stepwise=("timestep_cond", "cross_attention_kwargs", *_UNET_CONTROL),
    ),
    Family(
        "UNetMotionModel",
        sample="sample",
        rows=_UNET,
        stepwise=("timestep_cond", "cross_attention_kwargs", *_UNET_CONTROL),
    ),
    Family(
        "UNet2DModel",
        sample="sample",
        rows=("sample", "timestep", "class_labels"),
        order=(COND,),
        text=(),
    ),
    Family(
        "DiTTransformer2DModel",
        rows=("hidden_states", "timestep", "class_labels"),
        order=(COND, UNCOND),
        text=(),
    ),
    Family(
        "SD3Transformer2DModel",
        rows=(
            *_BASIC,
            "pooled_projections",
            "block_controlnet_hidden_states",
            "joint_attention_kwargs.ip_adapter_image_embeds",
        ),
        stepwise=("block_controlnet_hidden_states", "joint_attention_kwargs"),
        text=_TEXT_POOLED,
        tokens=("image", "text"),
        refused={"skip_guidance_layers": _SKIP_LAYERS, "skip_layers": _SKIP_LAYERS},
    ),
    Family(
        "FluxTransformer2DModel",
        rows=(*_BASIC, "guidance", "pooled_projections", *_CONTROL),
        separate=True,
        stepwise=(*_CONTROL, "joint_attention_kwargs"),
        text=_TEXT_POOLED,
        tokens=("text", "image"),
        channels=-1,
        scale="true_cfg_scale",
        switch=_TRUE_CFG,
        time=per_mille,
    ),
    Family(
        "Flux2Transformer2DModel",
        rows=(*_BASIC, "guidance", "img_ids", "txt_ids"),
        separate=True,
        tokens=("text", "image"),
        channels=-1,
        time=per_mille,
    ),
    Family(
        "Flux2Transformer2DModel",
        pipelines=("Flux2Pipeline",),
        rows=(*_BASIC, "guidance", "img_ids", "txt_ids"),
        order=(COND,),
        tokens=("text", "image"),
        channels=-1,
        time=per_mille,
    ),
    Family(
        "ChromaTransformer2DModel",
        rows=(*_BASIC, "attention_mask", *_CONTROL),
        separate=True,
        stepwise=_CONTROL,
        tokens=("text", "image"),
        channels=-1,
        time=per_mille,
    ),
    Family(
        "PixArtTransformer2DModel",
        rows=(*_BASIC, "encoder_attention_mask", "added_cond_kwargs"),
    ),
    Family(
        "QwenImageTransformer2DModel",
        rows=(
            *_BASIC,
            "guidance",
            "encoder_hidden_states_mask",
            "img_shapes[]",
            "controlnet_block_samples",
        ),
        separate=True,
        stepwise=("controlnet_block_samples",),
        tokens=("text", "image"),
        channels=-1,
        scale="true_cfg_scale",
        native=_renormalised,
        divides=True,
        switch=_TRUE_CFG,
        time=per_mille,
    ),
    Family(
        "ZImageTransformer2DModel",
        sample="x",
        timestep="t",
        rows=("x[]", "t", "cap_feats[]"),
        order=(COND, UNCOND),
        text=(),
        offset=1.0,
        native=_z_image,
        switch="guidance_scale above 0",
        time=reversed_per_mille,
        negated=True,
        float32=True,
    ),
    Family(
        "SanaTransformer2DModel",
        rows=(*_BASIC, "guidance", "encoder_attention_mask", "controlnet_block_samples"),
        stepwise=("controlnet_block_samples",),
        float32=True,
    ),
    Family(
        "LuminaNextDiT2DModel",
        rows=(*_BASIC, "encoder_mask"),
        order=(COND, UNCOND),
        native=_lumina,
        time=reversed_per_mille,
        negated=True,
    ),
    Family(
        "Lumina2Transformer2DModel",
        rows=(*_BASIC, "encoder_attention_mask"),
        separate=True,
        tokens=("text", "image"),
        native=_lumina2,
        divides=True,
        time=reversed_per_mille,
        negated=True,
    ),
    Family(
        "AuraFlowTransformer2DModel",
        rows=_BASIC,
        tokens=("text", "image"),
        time=per_mille,
    ),
    Family(
        "HunyuanDiT2DModel",
        rows=(
            *_BASIC,
            "text_embedding_mask",
            "encoder_hidden_states_t5",
            "text_embedding_mask_t5",
            "image_meta_size",
            "style",
            "controlnet_block_samples",
        ),
        stepwise=("controlnet_block_samples",),
        text=("encoder_hidden_states", "encoder_hidden_states_t5"),
    ),
    Family(
        "CogView3PlusTransformer2DModel",
        rows=(*_BASIC, "original_size", "target_size", "crop_coords"),
        tokens=("text", "image"),
        float32=True,
    ),
    Family(
        "CogView4Transformer2DModel",
        rows=(*_BASIC, "original_size", "target_size", "crop_coords", "attention_mask"),
        separate=True,
        tokens=("text", "image"),
    ),
    Family(
        "Kandinsky5Transformer3DModel",
        rows=(*_BASIC, "pooled_projections"),
        separate=True,
        text=_TEXT_POOLED,
        channels=-1,
    ),
    Family(
        "HunyuanImageTransformer2DModel",
        rows=(
            *_BASIC,
            "timestep_r",
            "guidance",
            "encoder_attention_mask",
            "encoder_hidden_states_2",
            "encoder_attention_mask_2",
        ),
        separate=True,
        text=("encoder_hidden_states", "encoder_hidden_states_2"),
        tokens=("image", "text"),
        switch="a guider that evaluates both branches",
    ),
    Family(
        "WanTransformer3DModel",
        rows=(*_BASIC, "encoder_hidden_states_image"),
        separate=True,
    ),
    Family(
        "HunyuanVideoTransformer3DModel",
        rows=(*_BASIC, "guidance", "encoder_attention_mask", "pooled_projections"),
        separate=True,
        text=_TEXT_POOLED,
        tokens=("image", "text"),
        scale="true_cfg_scale",
        switch=_TRUE_CFG,
    ),
    Family(
        "LTXVideoTransformer3DModel",
        rows=(*_BASIC, "encoder_attention_mask", "video_coords"),
        channels=-1,
        float32=True,
    ),
    Family(
        "CogVideoXTransformer3DModel",
        rows=(*_BASIC, "timestep_cond"),
        tokens=("text", "image"),
        channels=2,
        float32=True,
        refused={"use_dynamic_cfg": "it changes the scale behind the rule's back"},
    ),
    Family(
        "MochiTransformer3DModel",
        rows=(*_BASIC, "encoder_attention_mask"),
        tokens=("image", "text"),
        negated=True,
        float32=True,
    ),
    Family(
        "AudioLDM2UNet2DConditionModel",
        sample="sample",
        rows=(*_UNET, "encoder_hidden_states_1", "encoder_attention_mask_1"),
        text=("encoder_hidden_states", "encoder_hidden_states_1"),
    ),
    Family(
        "StableAudioDiTModel",
        rows=(*_BASIC, "global_hidden_states", "attention_mask", "encoder_attention_mask"),
    ),
)

for _family in FAMILIES:
    register_family(_family)
