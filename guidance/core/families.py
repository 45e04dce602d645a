"""The table of denoisers, one row each; see ``Family`` for the meaning of the fields."""

from __future__ import annotations

import torch
from torch import Tensor

from guidance.core.families_unet import UNETS
from guidance.core.families_video import (
    GUIDER_SCALE,
    GUIDER_SWITCH,
    TEXT_POOLED,
    TRUE_CFG,
    VIDEO_AND_AUDIO,
)
from guidance.core.family import (
    BASIC,
    Family,
    Setting,
    extrapolated,
    per_mille,
    register_family,
    reversed_per_mille,
    share_of_angle,
)
from guidance.core.prediction import COND, UNCOND


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
    guided = extrapolated(uncond, cond, w, setting)
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


def _joy_image(uncond: Tensor, cond: Tensor, w: float, setting: Setting) -> Tensor:
    """Guidance scaled back to the size of the conditional prediction, over the channels."""
    guided = uncond + w * (cond - uncond)
    size = torch.norm(guided, dim=2, keepdim=True).clamp_min(1e-6)
    return guided * (torch.norm(cond, dim=2, keepdim=True) / size)


def _longcat_image(uncond: Tensor, cond: Tensor, w: float, setting: Setting) -> Tensor:
    """Scaled back to the conditional size, by no less than ``cfg_renorm_min``, on demand."""
    guided = uncond + w * (cond - uncond)
    if not setting("enable_cfg_renorm"):
        return guided
    size = torch.norm(cond, dim=-1, keepdim=True) / (
        torch.norm(guided, dim=-1, keepdim=True) + 1e-8
    )
    return guided * size.clamp(min=setting("cfg_renorm_min"), max=1.0)


_SKIP_LAYERS = "it calls the denoiser a second time per step"
_CONTROL = ("controlnet_block_samples", "controlnet_single_block_samples")

FAMILIES = (
    *UNETS,
    Family(
        "DiTTransformer2DModel",
        rows=("hidden_states", "timestep", "class_labels"),
        order=(COND, UNCOND),
        text=(),
    ),
    Family(
        "SD3Transformer2DModel",
        rows=(
            *BASIC,
            "pooled_projections",
            "block_controlnet_hidden_states",
            "joint_attention_kwargs.ip_adapter_image_embeds",
        ),
        stepwise=("block_controlnet_hidden_states", "joint_attention_kwargs"),
        text=TEXT_POOLED,
        tokens=("image", "text"),
        refused={"skip_guidance_layers": _SKIP_LAYERS, "skip_layers": _SKIP_LAYERS},
    ),
    Family(
        "FluxTransformer2DModel",
        rows=(*BASIC, "guidance", "pooled_projections", *_CONTROL),
        separate=True,
        stepwise=(*_CONTROL, "joint_attention_kwargs"),
        text=TEXT_POOLED,
        tokens=("text", "image"),
        channels=-1,
        scale="true_cfg_scale",
        switch=TRUE_CFG,
        time=per_mille,
    ),
    Family(
        "Flux2Transformer2DModel",
        rows=(*BASIC, "guidance", "img_ids", "txt_ids"),
        separate=True,
        tokens=("text", "image"),
        channels=-1,
        time=per_mille,
    ),
    Family(
        "Flux2Transformer2DModel",
        pipelines=("Flux2Pipeline",),
        rows=(*BASIC, "guidance", "img_ids", "txt_ids"),
        order=(COND,),
        tokens=("text", "image"),
        channels=-1,
        time=per_mille,
    ),
    Family(
        "ChromaTransformer2DModel",
        rows=(*BASIC, "attention_mask", *_CONTROL),
        separate=True,
        stepwise=_CONTROL,
        tokens=("text", "image"),
        channels=-1,
        time=per_mille,
    ),
    Family(
        "PixArtTransformer2DModel",
        rows=(*BASIC, "encoder_attention_mask", "added_cond_kwargs"),
    ),
    Family(
        "QwenImageTransformer2DModel",
        rows=(
            *BASIC,
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
        switch=TRUE_CFG,
        time=per_mille,
    ),
    Family(
        "ZImageTransformer2DModel",
        sample="x",
        timestep="t",
        rows=("x[]", "t", "cap_feats[]"),
        order=(COND, UNCOND),
        text=(),
        tokens=("image", "text"),
        offset=1.0,
        native=_z_image,
        switch="guidance_scale above 0",
        time=reversed_per_mille,
        negated=True,
        float32=True,
    ),
    Family(
        "SanaTransformer2DModel",
        rows=(*BASIC, "guidance", "encoder_attention_mask", "controlnet_block_samples"),
        stepwise=("controlnet_block_samples",),
        float32=True,
    ),
    Family(
        "LuminaNextDiT2DModel",
        rows=(*BASIC, "encoder_mask"),
        order=(COND, UNCOND),
        native=_lumina,
        time=reversed_per_mille,
        negated=True,
    ),
    Family(
        "Lumina2Transformer2DModel",
        rows=(*BASIC, "encoder_attention_mask"),
        separate=True,
        tokens=("text", "image"),
        native=_lumina2,
        divides=True,
        time=reversed_per_mille,
        negated=True,
    ),
    Family(
        "AuraFlowTransformer2DModel",
        rows=BASIC,
        tokens=("text", "image"),
        time=per_mille,
    ),
    Family(
        "HunyuanDiT2DModel",
        rows=(
            *BASIC,
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
        rows=(*BASIC, "original_size", "target_size", "crop_coords"),
        tokens=("text", "image"),
        float32=True,
    ),
    Family(
        "CogView4Transformer2DModel",
        rows=(*BASIC, "original_size", "target_size", "crop_coords", "attention_mask"),
        separate=True,
        tokens=("text", "image"),
    ),
    Family(
        "Kandinsky5Transformer3DModel",
        rows=(*BASIC, "pooled_projections"),
        separate=True,
        text=TEXT_POOLED,
        channels=-1,
    ),
    Family(
        "HunyuanImageTransformer2DModel",
        rows=(
            *BASIC,
            "timestep_r",
            "guidance",
            "encoder_attention_mask",
            "encoder_hidden_states_2",
            "encoder_attention_mask_2",
        ),
        separate=True,
        text=("encoder_hidden_states", "encoder_hidden_states_2"),
        tokens=("image", "text"),
        scale=GUIDER_SCALE,
        switch=GUIDER_SWITCH,
    ),
    Family(
        "BriaTransformer2DModel",
        rows=BASIC,
        tokens=("text", "image"),
        channels=-1,
    ),
    Family(
        "BriaFiboTransformer2DModel",
        rows=(*BASIC, "text_encoder_layers", "joint_attention_kwargs.attention_mask"),
        tokens=("text", "image"),
        channels=-1,
    ),
    Family(
        "BriaFibo2Transformer2DModel",
        rows=(*BASIC, "encoder_attention_mask", "context_latents"),
        separate=True,
        copies=True,
        tokens=("text", "image"),
        time=per_mille,
        float32=True,
    ),
    Family(
        "ErnieImageTransformer2DModel",
        rows=("hidden_states", "timestep", "text_bth", "text_lens"),
        text=("text_bth",),
        tokens=("image", "text"),
    ),
    Family(
        "HiDreamImageTransformer2DModel",
        timestep="timesteps",
        rows=(
            "hidden_states",
            "timesteps",
            "encoder_hidden_states_t5",
            "encoder_hidden_states_llama3[:]",
            "pooled_embeds",
        ),
        text=("encoder_hidden_states_t5", "pooled_embeds"),
        tokens=("image", "text"),
        negated=True,
    ),
    Family(
        "JoyImageEditTransformer3DModel",
        separate=True,
        tokens=("image", "text"),
        channels=2,
        native=_joy_image,
    ),
    Family(
        "JoyImageEditPlusTransformer3DModel",
        rows=(*BASIC, "encoder_hidden_states_mask", "shape_list[]"),
        tokens=("image", "text"),
        channels=2,
        native=_joy_image,
    ),
    Family(
        "Krea2Transformer2DModel",
        rows=(*BASIC, "encoder_attention_mask"),
        separate=True,
        tokens=("text", "image"),
        channels=-1,
        offset=1.0,
        native=extrapolated,
        switch="guidance_scale above 0",
        time=per_mille,
    ),
    Family(
        "LongCatImageTransformer2DModel",
        rows=(*BASIC, "guidance"),
        separate=True,
        tokens=("text", "image"),
        channels=-1,
        native=_longcat_image,
        time=per_mille,
    ),
    Family(
        "NucleusMoEImageTransformer2DModel",
        rows=(*BASIC, "encoder_hidden_states_mask", "img_shapes[]"),
        separate=True,
        channels=-1,
        native=_renormalised,
        divides=True,
        time=per_mille,
        negated=True,
    ),
    Family(
        "OmniGenTransformer2DModel",
        rows=("hidden_states", "timestep", "input_ids", "attention_mask", "position_ids"),
        order=(COND, UNCOND),
        always=True,
        text=(),
        tokens=("text", "image"),
        refused={"input_images": "this pipeline then guides three rows with two scales"},
    ),
    Family(
        "OvisImageTransformer2DModel",
        separate=True,
        tokens=("text", "image"),
        channels=-1,
        time=per_mille,
    ),
    Family(
        "PRXTransformer2DModel",
        rows=(*BASIC, "attention_mask"),
        time=per_mille,
    ),
    Family(
        "PRXTransformer2DModel",
        pipelines=("PRXPixelPipeline",),
        rows=(*BASIC, "attention_mask"),
        time=per_mille,
        predicts="sample",
    ),
    Family(
        "PriorTransformer",
        rows=("hidden_states", "proj_embedding", "encoder_hidden_states", "attention_mask"),
        channels=-1,
    ),
    Family(
        "SanaTransformer2DModel",
        pipelines=("SanaSprintPipeline", "SanaSprintImg2ImgPipeline"),
        rows=(*BASIC, "guidance", "encoder_attention_mask"),
        order=(COND,),
        time=share_of_angle,
        float32=True,
    ),
    *VIDEO_AND_AUDIO,
)

for _family in FAMILIES:
    register_family(_family)
