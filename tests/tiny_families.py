"""Tiny pipelines with random weights for the families that ``tests.tiny`` lacks, built in code.

`FAMILIES[name]()` builds a pipeline, `FAMILIES[name].call(pipe)` samples with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.guiders import AdaptiveProjectedMixGuidance, ClassifierFreeGuidance

from tests import tiny_text
from tests.tiny import NEGATIVE, PROMPT, SIZE, WIDTH, _quiet, _vae, scheduler

PROMPTS = (PROMPT, "blue owl", "a hat", "old map")
PIXELS = 16


def second(text: dict[str, Any], number: int = 2) -> dict[str, Any]:
    """The same parts under the names of a second text encoder, or of one with a higher number."""
    return {f"{name}_{number}": part for name, part in text.items()}


def awaken(model: torch.nn.Module) -> None:
    """Stronger linear layers, and noise in parameters of zeros, so that text changes the sample."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.8 * module.in_features**-0.5)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)


def deep_vae(channels: int) -> Any:
    """An autoencoder with the usual eight pixels per latent, for pipelines that expect no other."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        shift_factor=0.0,
    )


@dataclass(frozen=True)
class Family:
    """How a tiny pipeline is built and called.

    `scale` names the argument with the scale of the pipeline's own classifier-free guidance: None
    where it has none, "guider" where that component holds it; `off` is the scale that switches it
    off. `prompt` and `negative` say whether the pipeline takes such text, `settings` are arguments
    of every call.
    """

    build: Callable[[], Any]
    scale: str | None = "guidance_scale"
    off: float = 1.0
    prompt: bool = True
    negative: bool = True
    settings: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Any:
        torch.manual_seed(0)
        with warnings.catch_warnings():  # diffusers builds some models from deprecated parts
            warnings.simplefilter("ignore", FutureWarning)
            pipe = self.build()
        for part in pipe.components.values():
            if isinstance(part, diffusers.ModelMixin) and not hasattr(part, "decode"):
                awaken(part)
        return _quiet(pipe)

    def call(
        self, pipe: Any, scale: float = 5.0, batch: int = 1, steps: int = 2, **changes: Any
    ) -> torch.Tensor:
        """Latents (pixels where there are none) of a call with one generator per image.

        `scale` matters where the pipeline has guidance of its own; `changes` are arguments of the
        pipeline. The seeds are 0, 1, ...
        """
        generators = [torch.Generator().manual_seed(seed) for seed in range(batch)]
        settings: dict[str, Any] = {"generator": generators, "num_inference_steps": steps}
        if self.prompt:
            settings |= {"prompt": list(PROMPTS[:batch]), "output_type": "latent"}
        else:
            settings |= {"batch_size": batch, "output_type": "pt"}
        if self.prompt and self.negative:
            settings["negative_prompt"] = [NEGATIVE] * batch
        if self.scale == "guider":
            pipe.guider.guidance_scale = scale
        elif self.scale:
            settings[self.scale] = scale
        with warnings.catch_warnings():  # Mochi asks a CPU for an autocast that only a GPU has
            warnings.filterwarnings("ignore", "In CPU autocast", UserWarning)
            return pipe(**settings | self.settings | changes)[0]


def unconditional(name: str, schedule: str) -> Callable[[], Any]:
    """An unconditional pixel UNet."""

    def build() -> Any:
        unet = diffusers.UNet2DModel(
            sample_size=SIZE,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
        return getattr(diffusers, name)(unet, getattr(diffusers, schedule)())

    return build


HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16}
FLUX: dict[str, Any] = HEADS | {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "joint_attention_dim": WIDTH,
    "pooled_projection_dim": WIDTH,
    "axes_dims_rope": (4, 4, 8),
    "guidance_embeds": True,
}
IMAGE = torch.linspace(0, 1, 3 * PIXELS * PIXELS).view(1, 3, PIXELS, PIXELS)
MASK = torch.ones(1, 1, PIXELS, PIXELS).tril()


def flux(name: str = "FluxPipeline", **parts: Any) -> Any:
    """FLUX.1 layout: guidance embedded, true guidance in a second call."""
    default = {"transformer": diffusers.FluxTransformer2DModel(**FLUX)}
    return getattr(diffusers, name)(
        **tiny_text.clip(),
        **second(tiny_text.t5()),
        vae=_vae(4),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        **default | parts,
    )


def flux_fill() -> Any:
    """FLUX.1 Fill layout: masked image and mask in further channels."""
    channels = {"in_channels": 48, "out_channels": 16}
    return flux("FluxFillPipeline", transformer=diffusers.FluxTransformer2DModel(**FLUX | channels))


def flux_controlnet() -> Any:
    """FLUX.1 with a ControlNet."""
    return flux("FluxControlNetPipeline", controlnet=diffusers.FluxControlNetModel(**FLUX))


def flux2(name: str, text: dict[str, Any], **changes: Any) -> Any:
    """FLUX.2 layout: hidden states of several layers of a language model as text."""
    transformer = diffusers.Flux2Transformer2DModel(
        **HEADS,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        joint_attention_dim=2 * WIDTH,
        axes_dims_rope=(4, 4, 4, 4),
        **changes,
    )
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    return getattr(diffusers, name)(
        **text, transformer=transformer, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler()
    )


def flux2_dev() -> Any:
    """FLUX.2 dev: guidance embedded only."""
    pipe = flux2("Flux2Pipeline", tiny_text.mistral())
    pipe.system_message = ""
    return pipe


def flux2_klein() -> Any:
    """FLUX.2 Klein: classifier-free guidance in a second call."""
    text = tiny_text.language("Qwen3", "ForCausalLM")
    return flux2("Flux2KleinPipeline", text, guidance_embeds=False)


def pixart(name: str) -> Callable[[], Any]:
    """PixArt layout: one text encoder, learned variances."""

    def build() -> Any:
        transformer = diffusers.PixArtTransformer2DModel(
            **HEADS,
            sample_size=SIZE,
            num_layers=2,
            cross_attention_dim=WIDTH,
            caption_channels=WIDTH,
            use_additional_conditions=False,
        )
        return getattr(diffusers, name)(
            **tiny_text.t5(),
            vae=_vae(4),
            transformer=transformer,
            scheduler=scheduler("DPMSolverMultistepScheduler"),
        )

    return build


def qwen() -> Any:
    """Qwen-Image layout: two calls, result renormalised to the conditional prediction."""
    transformer = diffusers.QwenImageTransformer2DModel(
        **HEADS,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(8, 4, 4),
    )
    pipe = diffusers.QwenImagePipeline(
        **tiny_text.qwen_vl(),
        transformer=transformer,
        vae=qwen_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )
    pipe.prompt_template_encode_start_idx = pipe.prompt_template_encode.index("{}")
    return pipe


def qwen_vae() -> Any:
    """Autoencoder of Qwen-Image and Krea 2."""
    return diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def sana() -> Any:
    """Sana layout: linear attention, deep compression autoencoder."""
    transformer = diffusers.SanaTransformer2DModel(
        **HEADS,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
        sample_size=SIZE,
    )
    vae = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_out_channels=(8,) * 3,
        decoder_block_out_channels=(8,) * 3,
        encoder_layers_per_block=(1,) * 3,
        decoder_layers_per_block=(1,) * 3,
        encoder_qkv_multiscales=((),) * 3,
        decoder_qkv_multiscales=((),) * 3,
    )
    return diffusers.SanaPipeline(
        **tiny_text.language("Gemma2"),
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def lumina() -> Any:
    """Lumina-Next layout: conditional rows first, guidance on some channels only."""
    transformer = diffusers.LuminaNextDiT2DModel(
        sample_size=SIZE,
        in_channels=4,
        hidden_size=WIDTH,
        num_layers=2,
        num_attention_heads=2,
        num_kv_heads=2,
        multiple_of=16,
        cross_attention_dim=WIDTH,
    )
    torch.nn.init.zeros_(transformer.pad_token)  # unused, and uninitialised
    return diffusers.LuminaPipeline(
        **tiny_text.language("Gemma"),
        transformer=transformer,
        vae=deep_vae(4),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def lumina2() -> Any:
    """Lumina 2 layout: two calls, negated velocity, result renormalised."""
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=SIZE,
        in_channels=4,
        hidden_size=WIDTH,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=2,
        multiple_of=16,
        axes_dim_rope=(8, 4, 4),
        cap_feat_dim=WIDTH,
    )
    return diffusers.Lumina2Pipeline(
        **tiny_text.language("Gemma2"),
        transformer=transformer,
        vae=deep_vae(4),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def aura() -> Any:
    """AuraFlow layout: joint blocks, then single blocks."""
    transformer = diffusers.AuraFlowTransformer2DModel(
        **HEADS,
        sample_size=SIZE,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=WIDTH,
        pos_embed_max_size=64,
    )
    return diffusers.AuraFlowPipeline(
        **tiny_text.t5("UMT5"),
        transformer=transformer,
        vae=_vae(4),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def z_image() -> Any:
    """Z-Image layout: lists of tensors, negated velocity, off at 0."""
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=WIDTH,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[64, 16, 16],
    )
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(token)
    return diffusers.ZImagePipeline(
        **tiny_text.language("Qwen3"),
        transformer=transformer,
        vae=_vae(4),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def wan(**pipeline: Any) -> Any:
    """Wan layout; keyword arguments go to the pipeline."""
    return diffusers.WanPipeline(**{"transformer": wan_transformer()} | pipeline, **wan_parts())


def wan_parts() -> dict[str, Any]:
    """What the pipelines of Wan and its kin need beside the denoiser."""
    vae = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    sampler = scheduler(
        "UniPCMultistepScheduler",
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=3.0,
    )
    return {**tiny_text.t5("UMT5"), "vae": vae, "scheduler": sampler}


def wan_transformer() -> Any:
    """Denoiser of Wan."""
    return diffusers.WanTransformer3DModel(
        **HEADS,
        in_channels=4,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=WIDTH,
        num_layers=2,
        rope_max_seq_len=32,
    )


def wan22() -> Any:
    """Wan 2.2 layout: one denoiser for high noise, then another for low noise."""
    return wan(transformer_2=wan_transformer(), boundary_ratio=0.8)


def zero_snr() -> Any:
    """The scheduler of CogView3-Plus and CogVideoX: no signal at all in the first step."""
    return scheduler(
        "CogVideoXDDIMScheduler",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def cogvideox() -> Any:
    """CogVideoX layout: expert norms, v-prediction with zero terminal signal."""
    transformer = diffusers.CogVideoXTransformer3DModel(
        **HEADS,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=WIDTH,
        num_layers=2,
        sample_width=4,
        sample_height=4,
        sample_frames=5,
        max_text_seq_length=tiny_text.LENGTH,
    )
    vae = diffusers.AutoencoderKLCogVideoX(
        block_out_channels=(4,) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=2
    )
    return diffusers.CogVideoXPipeline(
        **tiny_text.t5(),
        transformer=transformer,
        vae=vae,
        scheduler=zero_snr(),
    )


def hunyuan_dit() -> Any:
    """Hunyuan-DiT layout: BERT and T5, skip connections, learned variances."""
    transformer = diffusers.HunyuanDiT2DModel(
        **HEADS,
        in_channels=4,
        patch_size=2,
        sample_size=SIZE,
        hidden_size=WIDTH,
        num_layers=2,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=WIDTH,
    )
    return diffusers.HunyuanDiTPipeline(
        **tiny_text.bert(),
        **second(tiny_text.t5()),
        transformer=transformer,
        vae=deep_vae(4),
        scheduler=scheduler("DDPMScheduler", prediction_type="v_prediction", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def cogview4() -> Any:
    """CogView4 layout: two calls, sizes as conditions."""
    transformer = diffusers.CogView4Transformer2DModel(
        **HEADS,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=4,
        rope_axes_dim=(16, 16),
    )
    return diffusers.CogView4Pipeline(
        **tiny_text.language("Glm"),
        transformer=transformer,
        vae=_vae(4),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, time_shift_type="linear"
        ),
    )


def cogview3() -> Any:
    """CogView3-Plus layout: sizes as conditions, v-prediction with zero terminal signal."""
    transformer = diffusers.CogView3PlusTransformer2DModel(
        **HEADS,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=4,
        pos_embed_max_size=SIZE,
        sample_size=SIZE,
    )
    return diffusers.CogView3PlusPipeline(
        **tiny_text.t5(),
        transformer=transformer,
        vae=_vae(4),
        scheduler=zero_snr(),
    )


def chroma() -> Any:
    """Chroma layout: FLUX.1 without pooled text, two calls."""
    keys = ("in_channels", "num_layers", "num_single_layers", "joint_attention_dim")
    transformer = diffusers.ChromaTransformer2DModel(
        **HEADS,
        **{key: FLUX[key] for key in keys},
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=16,
        approximator_hidden_dim=WIDTH,
        approximator_layers=1,
    )
    return diffusers.ChromaPipeline(
        **tiny_text.t5(),
        transformer=transformer,
        vae=_vae(4),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def ltx() -> Any:
    """LTX-Video layout: packed video tokens."""
    transformer = diffusers.LTXVideoTransformer3DModel(
        **HEADS,
        in_channels=4,
        out_channels=4,
        cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
        num_layers=2,
    )
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(4,) * 4,
        decoder_block_out_channels=(4,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
    )
    return diffusers.LTXPipeline(
        **tiny_text.t5(),
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )


def mochi() -> Any:
    """Mochi layout: joint attention, time that runs upwards."""
    transformer = diffusers.MochiTransformer3DModel(
        **HEADS,
        num_layers=2,
        pooled_projection_dim=16,
        text_embed_dim=WIDTH,
        time_embed_dim=4,
        max_sequence_length=tiny_text.LENGTH,
    )
    vae = diffusers.AutoencoderKLMochi(
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
    )
    return diffusers.MochiPipeline(
        **tiny_text.t5(),
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    )


def hunyuan_video() -> Any:
    """HunyuanVideo layout: guidance embedded, true guidance in a second call."""
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        **HEADS,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        text_embed_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        rope_axes_dim=(8, 4, 4),
    )
    vae = diffusers.AutoencoderKLHunyuanVideo(
        block_out_channels=(4,) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=2
    )
    return diffusers.HunyuanVideoPipeline(
        **tiny_text.language("Llama"),
        **second(tiny_text.clip(77)),
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )


def stable_audio() -> Any:
    """Stable Audio layout: one-dimensional latents, v-prediction."""
    transformer = diffusers.StableAudioDiTModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_attention_heads=2,
        cross_attention_dim=16,
        cross_attention_input_dim=16,
        global_states_input_dim=32,
        time_proj_dim=8,
    )
    return diffusers.StableAudioPipeline(
        **tiny_text.t5(),
        projection_model=diffusers.StableAudioProjectionModel(
            text_encoder_dim=WIDTH, conditioning_dim=16, min_value=0, max_value=8
        ),
        transformer=transformer,
        vae=diffusers.AutoencoderOobleck(
            encoder_hidden_size=8,
            downsampling_ratios=[2, 2],
            channel_multiples=[1, 2],
            decoder_channels=8,
            decoder_input_channels=4,
            sampling_rate=16,
        ),
        scheduler=diffusers.EDMDPMSolverMultistepScheduler(
            prediction_type="v_prediction", sigma_data=1.0, sigma_schedule="exponential"
        ),
    )


def audioldm2() -> Any:
    """AudioLDM 2 layout: UNet with two text conditions, one of them generated by a GPT-2."""
    unet = diffusers.AudioLDM2UNet2DConditionModel(
        sample_size=SIZE,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=((None, 16, None, WIDTH),) * 2,
    )
    vae = diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    return diffusers.AudioLDM2Pipeline(
        **tiny_text.clap(),
        **second(tiny_text.t5()),
        **tiny_text.speaker(),
        projection_model=diffusers.AudioLDM2ProjectionModel(
            text_encoder_dim=16, text_encoder_1_dim=WIDTH, langauge_model_dim=16
        ),
        unet=unet,
        vae=vae,
        scheduler=scheduler("DDIMScheduler", clip_sample=False),
    )


def kandinsky5() -> Any:
    """Kandinsky 5 image layout: channels last, Qwen and CLIP, two calls."""
    transformer = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=WIDTH,
        in_text_dim2=WIDTH,
        time_dim=16,
        model_dim=WIDTH,
        ff_dim=WIDTH,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(8, 4, 4),
    )
    pipe = diffusers.Kandinsky5T2IPipeline(
        **tiny_text.qwen_vl(),
        **second(tiny_text.clip(77)),
        transformer=transformer,
        vae=deep_vae(4),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipe.prompt_template_encode_start_idx = pipe.prompt_template.index("{}")
    pipe.resolutions = [(32, 32)]
    return pipe


def hunyuan_image() -> Any:
    """HunyuanImage layout: a guider component makes the calls and combines them."""
    transformer = diffusers.HunyuanImageTransformer2DModel(
        **HEADS,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        rope_axes_dim=(8, 8),
    )
    vae = diffusers.AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=2,
        scaling_factor=1.0,
        sample_size=PIXELS,
    )
    pipe = diffusers.HunyuanImagePipeline(
        **tiny_text.qwen_vl(),
        **second(tiny_text.t5()),
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        guider=AdaptiveProjectedMixGuidance(),
    )
    pipe.tokenizer_max_length = pipe.tokenizer_2_max_length = tiny_text.LENGTH
    pipe.prompt_template_encode_start_idx = pipe.prompt_template_encode.index("{}")
    return pipe


def krea2() -> Any:
    """Krea 2 layout: hidden states of several layers as text, two calls, off at 0."""
    transformer = diffusers.Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=WIDTH,
        timestep_embed_dim=8,
        text_hidden_dim=WIDTH,
        num_text_layers=3,
        text_num_attention_heads=4,
        text_num_key_value_heads=2,
        text_intermediate_size=WIDTH,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
    )
    pipe = diffusers.Krea2Pipeline(
        **tiny_text.qwen_vl(),
        transformer=transformer,
        vae=qwen_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder_select_layers=(0, 1, 2),
    )
    pipe.prompt_template_encode_start_idx = len(pipe.prompt_template_encode_prefix)
    return pipe


def hidream() -> Any:
    """HiDream layout: four text encoders, one of them by layer, negated velocity."""
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[WIDTH, WIDTH],
        text_emb_dim=2 * WIDTH,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(SIZE, SIZE),
        llama_layers=(0, 1),
    )
    pooled = tiny_text.clip(77, "CLIPTextModelWithProjection")
    pipe = diffusers.HiDreamImagePipeline(
        **pooled,
        **second(pooled, 2),
        **second(tiny_text.t5(), 3),
        **second(tiny_text.language("Llama", "ForCausalLM"), 4),
        transformer=transformer,
        vae=deep_vae(4),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    pipe.default_sample_size = 4  # pictures are resized to that many latents
    return pipe


def stable_cascade() -> Any:
    """Stable Cascade's prior: a UNet named prior, times from 1 to 0."""
    return diffusers.StableCascadePriorPipeline(
        **tiny_text.clip(77, "CLIPTextModelWithProjection"),
        prior=diffusers.StableCascadeUNet(
            conditioning_dim=WIDTH,
            block_out_channels=(16, 16),
            num_attention_heads=(2, 2),
            down_num_layers_per_block=(1, 1),
            up_num_layers_per_block=(1, 1),
            switch_level=(False,),
            clip_image_in_channels=16,
            clip_text_in_channels=WIDTH,
            clip_text_pooled_in_channels=WIDTH,
        ),
        scheduler=diffusers.DDPMWuerstchenScheduler(),
    )


def motif() -> Any:
    """Motif-Video layout: a guider component combines copies of the predictions."""
    transformer = diffusers.MotifVideoTransformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=1,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=WIDTH,
        rope_axes_dim=(8, 4, 4),
    )
    return diffusers.MotifVideoPipeline(
        **wan_parts(),
        transformer=transformer,
        guider=ClassifierFreeGuidance(),
    )


def sizes(pixels: int, **settings: Any) -> dict[str, Any]:
    """Call settings of a square picture with short prompts."""
    return {"height": pixels, "width": pixels, "max_sequence_length": tiny_text.LENGTH} | settings


PLAIN: dict[str, Any] = {"use_resolution_binning": False, "clean_caption": False}
LAYERS = {"text_encoder_out_layers": (1, 2)}

FAMILIES = {
    "ddpm": Family(unconditional("DDPMPipeline", "DDPMScheduler"), None, prompt=False),
    "ddim": Family(unconditional("DDIMPipeline", "DDIMScheduler"), None, prompt=False),
    "flux": Family(flux, "true_cfg_scale", settings=sizes(PIXELS)),
    "flux_img2img": Family(
        lambda: flux("FluxImg2ImgPipeline"), "true_cfg_scale", settings=sizes(PIXELS, image=IMAGE)
    ),
    "flux_fill": Family(
        flux_fill, None, negative=False, settings=sizes(PIXELS, image=IMAGE, mask_image=MASK)
    ),
    "flux_kontext": Family(
        lambda: flux("FluxKontextPipeline"),
        "true_cfg_scale",
        settings=sizes(PIXELS, image=IMAGE, max_area=PIXELS * PIXELS, _auto_resize=False),
    ),
    "flux_controlnet": Family(
        flux_controlnet, "true_cfg_scale", settings=sizes(PIXELS, control_image=IMAGE)
    ),
    "flux2": Family(flux2_dev, None, negative=False, settings=sizes(PIXELS, **LAYERS)),
    "flux2_klein": Family(flux2_klein, negative=False, settings=sizes(PIXELS, **LAYERS)),
    "pixart_alpha": Family(pixart("PixArtAlphaPipeline"), settings=sizes(PIXELS, **PLAIN)),
    "pixart_sigma": Family(pixart("PixArtSigmaPipeline"), settings=sizes(PIXELS, **PLAIN)),
    "qwen": Family(qwen, "true_cfg_scale", settings=sizes(PIXELS, max_sequence_length=64)),
    "sana": Family(sana, settings=sizes(32, complex_human_instruction=None, **PLAIN)),
    "lumina": Family(lumina, settings=sizes(64, clean_caption=False)),
    "lumina2": Family(lumina2, settings=sizes(64, system_prompt="", max_sequence_length=32)),
    "aura": Family(aura, settings=sizes(PIXELS)),
    "z_image": Family(z_image, off=0.0, settings=sizes(PIXELS)),
    "krea2": Family(krea2, off=0.0, settings=sizes(PIXELS)),
    "hidream": Family(hidream, settings=sizes(32)),
    "stable_cascade": Family(stable_cascade, settings={"height": 128, "width": 128}),
    "hunyuan_dit": Family(
        hunyuan_dit, settings={"height": 64, "width": 64, "use_resolution_binning": False}
    ),
    "cogview3": Family(cogview3, settings=sizes(PIXELS)),
    "cogview4": Family(cogview4, settings=sizes(PIXELS)),
    "chroma": Family(chroma, settings=sizes(PIXELS)),
    "kandinsky5": Family(kandinsky5, settings=sizes(32, max_sequence_length=32)),
    "hunyuan_image": Family(hunyuan_image, "guider", settings={"height": PIXELS, "width": PIXELS}),
    "wan": Family(wan, settings=sizes(32, num_frames=5)),
    "wan22": Family(wan22, settings=sizes(32, num_frames=5)),
    "motif": Family(motif, "guider", settings=sizes(32, num_frames=5)),
    "cogvideox": Family(cogvideox, settings=sizes(32, num_frames=5)),
    "ltx": Family(ltx, settings=sizes(64, num_frames=9)),
    "mochi": Family(mochi, settings=sizes(32, num_frames=7)),
    "hunyuan_video": Family(
        hunyuan_video,
        "true_cfg_scale",
        settings=sizes(32, num_frames=5, prompt_template={"template": "{}", "crop_start": 0}),
    ),
    "stable_audio": Family(stable_audio, settings={"audio_end_in_s": 4.0}),
    "audioldm2": Family(audioldm2, settings={"audio_length_in_s": 0.008, "max_new_tokens": 4}),
}
