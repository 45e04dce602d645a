"""UNets of images, video and audio: rows of the table in ``guidance.core.families``."""

from __future__ import annotations

import torch
from torch import Tensor

from guidance.core.family import BASIC, Family, Setting
from guidance.core.prediction import COND, UNCOND


def _kandinsky3(uncond: Tensor, cond: Tensor, w: float, setting: Setting) -> Tensor:
    """Guidance as this pipeline writes it, whose scale is w - 1."""
    return w * cond - (w - 1) * uncond


def _interpolated(uncond: Tensor, cond: Tensor, w: float, setting: Setting) -> Tensor:
    """Guidance as Stable Cascade rounds it."""
    return torch.lerp(uncond, cond, w)


def _rising(uncond: Tensor, cond: Tensor, w: float, setting: Setting) -> Tensor:
    """The scale rises to w from the first frame to the last."""
    frames = cond.shape[1]
    scale = torch.linspace(setting("min_guidance_scale"), w, frames).to(cond)
    return uncond + scale.view(1, frames, 1, 1, 1) * (cond - uncond)


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

UNETS = (
    Family(
        "UNet2DConditionModel",
        sample="sample",
        rows=_UNET,
        stepwise=("timestep_cond", "cross_attention_kwargs", *_UNET_CONTROL),
    ),
    Family(
        "UNet2DConditionModel",
        pipelines=(
            "IFSuperResolutionPipeline",
            "IFImg2ImgSuperResolutionPipeline",
            "IFInpaintingSuperResolutionPipeline",
        ),
        sample="sample",
        rows=_UNET,
        guided=3,
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
        "DreamLiteUNetModel",
        sample="sample",
        rows=("sample", *BASIC[1:], "encoder_attention_mask", "added_cond_kwargs"),
        always=True,
        refused={"image": "this pipeline then guides three rows with two scales"},
    ),
    Family(
        "DreamLiteUNetModel",
        pipelines=("DreamLiteMobilePipeline",),
        sample="sample",
        rows=("sample", *BASIC[1:], "encoder_attention_mask", "added_cond_kwargs"),
        order=(COND,),
    ),
    Family(
        "Kandinsky3UNet",
        sample="sample",
        rows=("sample", *BASIC[1:], "encoder_attention_mask"),
        offset=1.0,
        native=_kandinsky3,
    ),
    Family(
        "StableCascadeUNet",
        sample="sample",
        timestep="timestep_ratio",
        rows=("sample", "timestep_ratio", "clip_text_pooled", "clip_text", "clip_img", "effnet"),
        order=(COND, UNCOND),
        text=("clip_text", "clip_text_pooled"),
        native=_interpolated,
    ),
    Family(
        "UNet3DConditionModel",
        sample="sample",
        rows=("sample", *BASIC[1:], "attention_mask"),
    ),
    Family(
        "I2VGenXLUNet",
        sample="sample",
        rows=("sample", *BASIC[1:], "fps", "image_latents", "image_embeddings"),
    ),
    Family(
        "UNetSpatioTemporalConditionModel",
        sample="sample",
        rows=("sample", *BASIC[1:], "added_time_ids"),
        text=(),
        channels=2,
        guided=4,
        scale="max_guidance_scale",
        native=_rising,
        switch="max_guidance_scale above 1",
    ),
    Family(
        "AudioLDM2UNet2DConditionModel",
        sample="sample",
        rows=(*_UNET, "encoder_hidden_states_1", "encoder_attention_mask_1"),
        text=("encoder_hidden_states", "encoder_hidden_states_1"),
    ),
)
