"""Denoisers of video and audio: rows of the table in ``guidance.core.families``."""

from __future__ import annotations

from guidance.core.family import BASIC, Family, extrapolated, per_mille, per_mille_of_signal
from guidance.core.prediction import COND, UNCOND

TRUE_CFG = "true_cfg_scale above 1 and a negative_prompt"
TEXT_POOLED = ("encoder_hidden_states", "pooled_projections")
GUIDER_SCALE = "guider.guidance_scale"
GUIDER_SWITCH = "a guider that evaluates both branches"
_DYNAMIC = "it changes the scale behind the rule's back"
_HISTORY = ("latents_history_short", "latents_history_mid", "latents_history_long")

VIDEO_AND_AUDIO = (
    Family(
        "WanTransformer3DModel",
        rows=(*BASIC, "encoder_hidden_states_image"),
        separate=True,
    ),
    Family(
        "HunyuanVideoTransformer3DModel",
        rows=(*BASIC, "guidance", "encoder_attention_mask", "pooled_projections"),
        separate=True,
        text=TEXT_POOLED,
        tokens=("image", "text"),
        scale="true_cfg_scale",
        switch=TRUE_CFG,
    ),
    Family(
        "LTXVideoTransformer3DModel",
        rows=(*BASIC, "encoder_attention_mask", "video_coords"),
        channels=-1,
        float32=True,
    ),
    Family(
        "CogVideoXTransformer3DModel",
        rows=(*BASIC, "timestep_cond"),
        tokens=("text", "image"),
        channels=2,
        float32=True,
        refused={"use_dynamic_cfg": _DYNAMIC},
    ),
    Family(
        "MochiTransformer3DModel",
        rows=(*BASIC, "encoder_attention_mask"),
        tokens=("image", "text"),
        negated=True,
        float32=True,
    ),
    Family(
        "HunyuanVideo15Transformer3DModel",
        rows=(
            *BASIC,
            "timestep_r",
            "encoder_attention_mask",
            "encoder_hidden_states_2",
            "encoder_attention_mask_2",
            "image_embeds",
        ),
        separate=True,
        text=("encoder_hidden_states", "encoder_hidden_states_2"),
        tokens=("image", "text"),
        scale=GUIDER_SCALE,
        switch=GUIDER_SWITCH,
    ),
    Family(
        "HunyuanVideoFramepackTransformer3DModel",
        rows=(
            *BASIC,
            "guidance",
            "encoder_attention_mask",
            "pooled_projections",
            "image_embeds",
            "latents_clean",
            "latents_history_2x",
            "latents_history_4x",
        ),
        separate=True,
        stepwise=(
            "indices_latents",
            "latents_clean",
            "indices_latents_clean",
            "latents_history_2x",
            "indices_latents_history_2x",
            "latents_history_4x",
            "indices_latents_history_4x",
        ),
        text=TEXT_POOLED,
        tokens=("image", "text"),
        scale="true_cfg_scale",
        switch=TRUE_CFG,
    ),
    Family(
        "MotifVideoTransformer3DModel",
        rows=(*BASIC, "encoder_attention_mask", "image_embeds"),
        separate=True,
        copies=True,
        tokens=("image", "text"),
        scale=GUIDER_SCALE,
        switch=GUIDER_SWITCH,
    ),
    Family(
        "WanVACETransformer3DModel",
        rows=(*BASIC, "encoder_hidden_states_image", "control_hidden_states"),
        separate=True,
    ),
    Family(
        "WanAnimateTransformer3DModel",
        rows=(
            *BASIC,
            "encoder_hidden_states_image",
            "pose_hidden_states",
            "face_pixel_values",
        ),
        separate=True,
        stepwise=("pose_hidden_states", "face_pixel_values"),
    ),
    Family(
        "ChronoEditTransformer3DModel",
        rows=(*BASIC, "encoder_hidden_states_image"),
        separate=True,
    ),
    Family(
        "SkyReelsV2Transformer3DModel",
        rows=(*BASIC, "encoder_hidden_states_image"),
        separate=True,
    ),
    Family(
        "HeliosTransformer3DModel",
        rows=(*BASIC, *_HISTORY),
        separate=True,
        stepwise=_HISTORY,
    ),
    Family(
        "CosmosTransformer3DModel",
        rows=(*BASIC, "condition_mask"),
        separate=True,
        offset=1.0,
        native=extrapolated,
    ),
    Family(
        "CosmosTransformer3DModel",
        pipelines=(
            "Cosmos2TextToImagePipeline",
            "Cosmos2VideoToWorldPipeline",
        ),
        rows=(*BASIC, "condition_mask"),
        separate=True,
        copies=True,
        offset=1.0,
        native=extrapolated,
        time=per_mille_of_signal,
    ),
    Family(
        "CosmosTransformer3DModel",
        pipelines=("Cosmos2_5_PredictBasePipeline", "Cosmos2_5_TransferPipeline"),
        rows=(*BASIC, "condition_mask", "block_controlnet_hidden_states"),
        separate=True,
        copies=True,
        stepwise=("block_controlnet_hidden_states",),
        offset=1.0,
        native=extrapolated,
        time=per_mille,
    ),
    Family(
        "AllegroTransformer3DModel",
        rows=(*BASIC, "encoder_attention_mask"),
    ),
    Family(
        "AnyFlowTransformer3DModel",
        rows=(*BASIC, "r_timestep"),
        stepwise=("r_timestep",),
        channels=2,
    ),
    Family(
        "ConsisIDTransformer3DModel",
        rows=(*BASIC, "timestep_cond"),
        tokens=("text", "image"),
        channels=2,
        float32=True,
        refused={"use_dynamic_cfg": _DYNAMIC},
    ),
    Family(
        "EasyAnimateTransformer3DModel",
        rows=(
            *BASIC,
            "timestep_cond",
            "encoder_hidden_states_t5",
            "inpaint_latents",
            "control_latents",
        ),
        text=("encoder_hidden_states", "encoder_hidden_states_t5"),
        tokens=("text", "image"),
    ),
    Family("LatteTransformer3DModel"),
    Family(
        "SanaVideoTransformer3DModel",
        rows=(*BASIC, "guidance", "encoder_attention_mask"),
        float32=True,
    ),
    Family(
        "StableAudioDiTModel",
        rows=(*BASIC, "global_hidden_states", "attention_mask", "encoder_attention_mask"),
    ),
    Family(
        "StableAudio3DiTModel",
        rows=(*BASIC, "global_hidden_states", "encoder_attention_mask"),
    ),
    Family(
        "LongCatAudioDiTTransformer",
        rows=(*BASIC, "encoder_attention_mask", "attention_mask", "latent_cond"),
        separate=True,
        channels=-1,
        time=per_mille,
    ),
    Family(
        "AceStepTransformer1DModel",
        rows=(*BASIC, "timestep_r", "context_latents"),
        order=(COND, UNCOND),
        stepwise=("timestep_r",),
        channels=-1,
    ),
)
