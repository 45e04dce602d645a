"""What the trainer computes is what the pipeline's own call computes, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from personalize.core.backbone import Conditioning
from personalize.core.backbones import backbone_of
from personalize.core.method import Sizes
from tests import tiny, tiny_families

PROMPTS = ["red fox", "blue owl"]
PIXELS = 16


def flux() -> Any:
    """The tiny FLUX pipeline."""
    return tiny_families.FAMILIES["flux"]()


FAMILIES = {"sd": tiny.sd, "sdxl": tiny.sdxl, "sd3": tiny.sd3, "flux": flux}


@pytest.fixture(params=list(FAMILIES))
def pipe(request: pytest.FixtureRequest) -> Any:
    """One pipeline of every family that can be trained."""
    return FAMILIES[request.param]()


def heard(pipe: Any, **call: Any) -> list[tuple[tuple[Any, ...], dict[str, Any], torch.Tensor]]:
    """Arguments and result of every denoiser call in a plain run without guidance."""
    calls = []

    def note(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        calls.append((args, kwargs, output[0]))

    hook = tiny.denoiser(pipe).register_forward_hook(note, with_kwargs=True)
    settings = {"height": PIXELS, "width": PIXELS, "output_type": "latent"}
    settings |= {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
    scale = {} if "Flux" in type(pipe).__name__ else {"guidance_scale": 1.0}
    pipe(PROMPTS, **settings | scale | call)
    hook.remove()
    return calls


def unpacked(pipe: Any, latents: torch.Tensor, pixels: int = PIXELS) -> torch.Tensor:
    """Latents as pictures have them, also those of FLUX."""
    if latents.ndim == 4:
        return latents
    return pipe._unpack_latents(latents, pixels, pixels, pipe.vae_scale_factor)


def conditioning_of(kwargs: dict[str, Any]) -> Conditioning:
    """The embedded prompts that a denoiser was given."""
    added = kwargs.get("added_cond_kwargs") or {}
    pooled = added.get("text_embeds", kwargs.get("pooled_projections"))
    return Conditioning(kwargs["encoder_hidden_states"], pooled)


def same(one: Conditioning, other: Conditioning) -> bool:
    """Whether two conditionings have the same bits."""
    if one.pooled is None or other.pooled is None:
        return one.pooled is other.pooled and torch.equal(one.embeds, other.embeds)
    return torch.equal(one.embeds, other.embeds) and torch.equal(one.pooled, other.pooled)


@pytest.mark.parametrize(("name", "side"), [("sd", 2), ("sdxl", 2), ("sd3", 2), ("flux", 4)])
def test_the_grain_is_what_pipelines_check(name: str, side: int) -> None:
    """VAEs that halve once, patches of one latent, and of two for FLUX."""
    assert backbone_of(FAMILIES[name]()).grain == side


def test_encode_and_predict_are_those_of_the_pipelines_own_call(pipe: Any) -> None:
    backbone = backbone_of(pipe)
    with torch.no_grad():
        ours = backbone.encode(PROMPTS)
    for args, kwargs, output in heard(pipe):
        assert same(ours, conditioning_of(kwargs))
        noisy = unpacked(pipe, kwargs["hidden_states"] if not args else args[0])
        time = kwargs["timestep"] * 1000 if "img_ids" in kwargs else kwargs.get("timestep")
        time = torch.as_tensor(args[1] if args else time).expand(2)
        with torch.no_grad():
            prediction = backbone.predict(noisy, time, ours)
        assert torch.equal(prediction, unpacked(pipe, output))


def test_sizes_are_the_time_ids_of_stable_diffusion_xl(sdxl: Any) -> None:
    backbone = backbone_of(sdxl)
    sizes = [Sizes((40, 30), (3, 2), (16, 24))] * 2
    call = {"original_size": (40, 30), "crops_coords_top_left": (3, 2), "target_size": (16, 24)}
    (sample, time), _, output = heard(sdxl, **call)[0]
    with torch.no_grad():
        told = backbone.predict(sample, time.expand(2), backbone.encode(PROMPTS), sizes)
        untold = backbone.predict(sample, time.expand(2), backbone.encode(PROMPTS))
    assert torch.equal(told, output)
    assert not torch.equal(untold, output)


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3"])
@pytest.mark.parametrize("skip", [0, 1])
def test_clip_skip_is_that_of_encode_prompt(name: str, skip: int) -> None:
    pipe = FAMILIES[name]()
    if name == "sd":
        hidden = pipe.text_encoder(
            pipe.tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids,
            output_hidden_states=True,
        ).hidden_states[-1 - skip]
        expected = pipe.text_encoder.final_layer_norm(hidden)
    else:
        texts = {"sdxl": (PROMPTS,), "sd3": (PROMPTS,) * 3}[name]
        expected = pipe.encode_prompt(*texts, clip_skip=skip)[0]
    backbone = backbone_of(pipe)
    state = dict(vars(pipe.text_encoder))
    embeds = backbone.encode(PROMPTS, clip_skip=skip).embeds
    assert torch.equal(embeds, expected)
    assert vars(pipe.text_encoder) == state
    if skip:
        assert not torch.equal(embeds, backbone.encode(PROMPTS).embeds)


def test_flux_has_no_clip_skip() -> None:
    with pytest.raises(ValueError, match="clip_skip must be None for FLUX"):
        backbone_of(flux()).encode(PROMPTS, clip_skip=1)


def test_gradients_pass_through_the_denoiser_and_the_text_encoders(pipe: Any) -> None:
    backbone = backbone_of(pipe)
    conditioning = backbone.encode(PROMPTS)
    shape = (2, backbone.latent_channels, 8, 8)
    prediction = backbone.predict(torch.ones(shape), torch.tensor([7, 900]), conditioning)
    assert prediction.shape == shape
    prediction.square().mean().backward()
    for encoder in backbone.text_encoders:
        assert encoder.model.get_input_embeddings().weight.grad.abs().sum() > 0


def test_predictions_are_in_the_dtype_of_the_denoiser(sd: Any) -> None:
    backbone = backbone_of(sd)
    sd.unet.to(torch.bfloat16)
    conditioning = backbone.encode(["red fox"])
    assert conditioning.embeds.dtype == torch.float32
    prediction = backbone.predict(torch.ones(1, 4, 8, 8), torch.tensor([5]), conditioning)
    assert prediction.dtype == torch.bfloat16


def test_latents_are_scaled_and_shifted_as_the_decoder_expects(pipe: Any) -> None:
    backbone = backbone_of(pipe)
    pipe.vae.register_to_config(scaling_factor=0.5, shift_factor=0.25)
    pixels = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)
    mean, std = backbone.encode_images(pixels)
    posterior = pipe.vae.encode(pixels).latent_dist
    assert not mean.requires_grad
    assert mean.dtype == std.dtype == torch.float32
    torch.testing.assert_close(mean / 0.5 + 0.25, posterior.mean)
    torch.testing.assert_close(std / 0.5, posterior.std)


def test_latents_are_standardized_by_channel_where_the_vae_says_so(sdxl: Any) -> None:
    mean, std = [0.1, -0.2, 0.3, 0.0], [2.0, 0.5, 1.0, 4.0]
    sdxl.vae.register_to_config(latents_mean=mean, latents_std=std, scaling_factor=0.5)
    pixels = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    posterior = sdxl.vae.encode(pixels).latent_dist
    ours, spread = backbone_of(sdxl).encode_images(pixels)
    back = ours * torch.tensor(std).view(1, 4, 1, 1) / 0.5 + torch.tensor(mean).view(1, 4, 1, 1)
    torch.testing.assert_close(back, posterior.mean)
    torch.testing.assert_close(spread * torch.tensor(std).view(1, 4, 1, 1) / 0.5, posterior.std)


def test_a_float16_vae_that_overflows_encodes_in_float32_and_keeps_its_bits(sdxl: Any) -> None:
    pixels = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    sdxl.vae.half()
    before = {name: value.clone() for name, value in sdxl.vae.state_dict().items()}
    mean, std = backbone_of(sdxl).encode_images(pixels)
    after = sdxl.vae.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {value.dtype for value in after.values()} == {torch.float16}
    posterior = sdxl.vae.float().encode(pixels).latent_dist
    assert torch.equal(mean, posterior.mean * sdxl.vae.config.scaling_factor)
    assert torch.equal(std, posterior.std * sdxl.vae.config.scaling_factor)


def test_text_encoders_are_the_clip_ones(pipe: Any) -> None:
    encoders = backbone_of(pipe).text_encoders
    both = type(pipe).__name__.startswith(("StableDiffusionXL", "StableDiffusion3"))
    assert [encoder.key for encoder in encoders] == ["clip_l", "clip_g"][: 1 + both]
    for encoder in encoders:
        assert encoder.model is getattr(pipe, encoder.name)
        assert encoder.tokenizer is pipe.components[encoder.tokenizer_name]
        assert encoder.table.shape == (len(encoder.tokenizer), tiny.WIDTH)
        assert not encoder.table.requires_grad


def test_the_resolution_is_that_of_a_call_without_sizes(pipe: Any) -> None:
    steps = {"num_inference_steps": 1, "output_type": "latent"}
    latents = unpacked(pipe, pipe("red", **steps).images, backbone_of(pipe).resolution)
    assert latents.shape[-1] * pipe.vae_scale_factor == backbone_of(pipe).resolution


def test_what_cannot_be_trained_is_refused() -> None:
    pipe = tiny.sd()
    other = tiny.relative("StableDiffusionImg2ImgPipeline", pipe)
    with pytest.raises(ValueError, match="StableDiffusionImg2ImgPipeline cannot be trained"):
        backbone_of(other)
    with pytest.raises(ValueError, match="DiTPipeline cannot be trained: expected one of Stable"):
        backbone_of(tiny.dit())
    with pytest.raises(ValueError, match="takes 9 channels and its VAE gives 4"):
        backbone_of(tiny.sd(in_channels=9))
    with pytest.raises(ValueError, match="distilled for a few steps"):
        backbone_of(tiny.sd(time_cond_proj_dim=8))
    pipe.text_encoder = None
    with pytest.raises(ValueError, match="without its text_encoder, which is None"):
        backbone_of(pipe)
