"""Trained evaluators in rules: analytic choices, gradients, batches, and whom they refuse."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guidance import (
    CFG,
    AdaptiveGuidance,
    Alignment,
    ClassifierGuidance,
    Discriminator,
    DynamicCFG,
    GradientFreeClassifierGuidance,
    LatentClassifier,
    LossGuidance,
    NoisyClassifier,
    Reward,
    Rule,
    guide,
    parse_rule,
)
from guidance.core.text import text_features
from guidance.evaluators import (
    Classifier,
    Evaluator,
    denoiser_of,
    load_evaluator,
    save_evaluator,
    space_of,
    text_encoder_of,
)
from guidance.evaluators.trained import level_of
from tests import tiny
from tests.guidance.evaluators.saved import (
    CLASSES,
    config_for,
    leaning,
    leaning_net,
    save_for,
    step,
)
from tests.tiny import close
from tests.tiny_families import FAMILIES

SCORING = {"alignment": Alignment, "discriminator": Discriminator, "reward": Reward}
PROMPTS = ("red fox", "blue owl", "red fox")


def of_text(pipe: Any, **changes: Any) -> Any:
    """A call whose text features are those of a pipeline."""
    return step(text_features=lambda prompts: text_features(pipe, prompts), **changes)


# Numbers


@pytest.mark.parametrize("kind", SCORING)
def test_scores_are_what_the_network_says(kind: str, sd: Any, tmp_path: Path) -> None:
    part = SCORING[kind](save_for(sd, tmp_path, kind))
    net = load_evaluator(tmp_path).net
    x0 = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    found = part.score(x0, of_text(sd), PROMPTS)
    level, text = torch.full((3,), math.log(0.8 / 0.6)), text_features(sd, PROMPTS)
    with torch.no_grad():
        if kind == "alignment":
            expected = net.scale * (net(x0.float(), level) * net.embed_text(text)).sum(1)  # type: ignore[operator]
        else:
            expected = net(x0.float(), level, *([text] if kind == "reward" else []))[:, 0]
    close(found, expected)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    for b in range(3):
        close(part.score(x0[b : b + 1], of_text(sd), PROMPTS[b : b + 1])[0], expected[b])
    elsewhere = part.score(x0, of_text(sd, alpha=0.2), PROMPTS)
    assert (elsewhere - found).abs().max() > 1e-4
    if kind != "discriminator":
        assert (part.score(x0, of_text(sd), PROMPTS[1:] + PROMPTS[:1]) - found).abs().max() > 1e-4


def test_logits_of_x0_and_of_noisy_samples(sd: Any, tmp_path: Path) -> None:
    part = LatentClassifier(save_for(sd, tmp_path / "x0", "classifier"))
    noisy = NoisyClassifier(save_for(sd, tmp_path / "noisy", "classifier", read="noisy"))
    x = torch.randn(3, 4, 8, 8)
    found = part.logits(x, step())
    assert found.shape == (3, 3)
    close(found, load_evaluator(tmp_path / "x0").net(x, torch.full((3,), math.log(4 / 3))))
    assert part.classes == CLASSES
    at = step(alpha=0.3, sigma=0.7)
    expected = load_evaluator(tmp_path / "noisy").net(
        x / math.sqrt(0.58), torch.full((3,), math.log(7 / 3))
    )
    close(noisy(x, at), expected)
    assert isinstance(part, Classifier)
    assert not isinstance(part, Evaluator)
    assert not isinstance(noisy, Classifier)


def test_levels() -> None:
    assert level_of(step(0.6, 0.8)) == pytest.approx(math.log(4 / 3))
    assert level_of(step(0.0, 1.0)) == math.inf
    assert level_of(step(1.0, 0.0)) == -math.inf
    with pytest.raises(ValueError, match="the noise level of this scheduler is unknown"):
        level_of(step(math.nan, math.nan))


def test_gradients_and_autocast(sd: Any, tmp_path: Path) -> None:
    part = LatentClassifier(save_for(sd, tmp_path, "classifier"))
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    found = part.logits(x, step())
    (slope,) = torch.autograd.grad(found[0, 1], x)
    assert slope[0].abs().max() > 0
    assert slope[1].abs().max() == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(part.logits(x, step()), found)
    with torch.inference_mode():
        fresh = LatentClassifier(save_for(sd, tmp_path, "classifier", seed=1))
        fresh.logits(x.detach(), step())
    assert fresh.logits(x, step()).requires_grad


def test_files_are_read_once_for_each_content(
    sd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import guidance.evaluators.trained as module

    read: list[str] = []

    def load(path: str) -> Any:
        read.append(path)
        return load_evaluator(path)

    monkeypatch.setattr(module, "load_evaluator", load)
    x0 = torch.randn(2, 4, 8, 8)
    part = Discriminator(save_for(sd, tmp_path, "discriminator"))
    first = part.score(x0, step(), None)
    assert torch.equal(Discriminator(tmp_path).score(x0, step(), None), first)  # type: ignore[arg-type]
    assert len(read) == 1
    save_for(sd, tmp_path, "discriminator", seed=1)
    assert (part.score(x0, step(), None) - first).abs().max() > 1e-4
    assert len(read) == 2


# In rules


class Leaning:
    """``leaning`` by its formula, with a sign for each image."""

    def __init__(self, *signs: float) -> None:
        self.signs = torch.tensor(signs)

    def score(self, x0: Tensor, step: Any, prompts: Any) -> Tensor:
        return self.signs * leaning(x0)


def choices(pipe: Any, evaluator: Any) -> tuple[Tensor, list[Any]]:
    """Two pictures under dynamic guidance, and the scales that the evaluator chose."""
    with guide(pipe, DynamicCFG((1.0, 3.0, 9.0), evaluator)) as run:
        result = tiny.sample(pipe, batch=2)
    return result, [record.scale for record in run.report.steps]


@pytest.mark.parametrize("name", tiny.FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_weights_by_hand_make_the_analytic_choice(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    pipe, scales = tiny.FAMILIES[name](), []
    config = config_for(pipe, "discriminator")
    for sign in (1.0, -1.0):
        save_evaluator(tmp_path, leaning_net(config, sign), config, dtype)
        result, chosen = choices(pipe, Discriminator(str(tmp_path)))
        expected, analytic = choices(pipe, Leaning(sign, sign))
        assert torch.equal(result, expected)
        assert chosen == analytic
        scales.append(chosen)
    assert scales[0] != scales[1]


@pytest.mark.parametrize("name", ["pixart_sigma", "sana", "cogview4", "aura", "ddim"])
def test_families_with_latents_and_pixels(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    pipe = family()
    part = Reward(save_for(pipe, tmp_path, "reward"))
    rule: Rule = LossGuidance(0.5, part, normalised=True)
    if family.scale:
        rule = DynamicCFG((1.0, 3.0), part)
    plain = family.call(pipe, scale=1.0, batch=2)
    with guide(pipe, rule) as run:
        result = family.call(pipe, scale=3.0, batch=2)
    assert run.report.steps
    assert result.isfinite().all()
    assert (result - plain).abs().max() > 0


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_packed_latents_and_videos_are_refused(name: str, tmp_path: Path) -> None:
    pipe = FAMILIES[name]()
    rule = LossGuidance(0.5, Reward(save_for(pipe, tmp_path, "reward")))
    with (
        pytest.raises(ValueError, match=r"judges latents \(B, 4, height, width\), found shape"),
        guide(pipe, rule),
    ):
        FAMILIES[name].call(pipe, scale=3.0)


def test_a_prompt_decides(sd: Any, tmp_path: Path) -> None:
    """The vector of texts points along or against that of pictures, by the sign of one feature."""
    config = config_for(sd, "alignment")
    net: Any = leaning_net(config)
    texts = text_features(sd, [tiny.PROMPT, "blue owl"])
    plain = torch.nn.functional.layer_norm(texts, texts.shape[1:])
    apart = plain[0] - plain[1]
    middle = float((plain.mean(0) * apart).sum())
    with torch.no_grad():
        net.text.weight.zero_()
        net.text.bias.zero_()
        net.text.weight[0], net.text.bias[0] = apart, -middle
        net.picture.head.weight[1:] = 0.0
        net.picture.head.bias[1] = 0.05
    save_evaluator(tmp_path, net, config, torch.float32)
    result, chosen = choices(sd, Alignment(str(tmp_path)))
    expected, analytic = choices(sd, Leaning(1.0, -1.0))
    assert chosen == analytic != choices(sd, Leaning(1.0, 1.0))[1]
    assert torch.equal(result, expected)


def test_classifiers_guide_with_and_without_gradients(sd: Any, tmp_path: Path) -> None:
    clean = save_for(sd, tmp_path / "x0", "classifier")
    noisy = save_for(sd, tmp_path / "noisy", "minority", read="noisy")
    plain = tiny.sample(sd, scale=1.0, batch=2)
    for rule in (
        GradientFreeClassifierGuidance(3.0, LatentClassifier(clean)),
        ClassifierGuidance(50.0, LatentClassifier(clean), target=1),
        ClassifierGuidance(50.0, NoisyClassifier(noisy), target=(1, 2)),
    ):
        with guide(sd, rule):
            result = tiny.sample(sd, scale=1.0, batch=2)
        assert (result - plain).abs().max() > 1e-4
        if isinstance(rule, ClassifierGuidance):
            rule = replace(rule, target=1)
        with guide(sd, rule):
            close(tiny.sample(sd, scale=1.0, batch=1), result[:1])


def test_text_and_json_name_them(sd: Any, tmp_path: Path) -> None:
    folder = save_for(sd, tmp_path, "alignment")
    rule = parse_rule(f'DynamicCFG((1, 4, 7), (alignment("{folder}"), Saturation()))')
    assert isinstance(rule, DynamicCFG)
    assert rule.evaluators[0] == Alignment(folder)
    assert repr(rule.evaluators[0]) == f"Alignment(path={folder!r})"
    assert parse_rule(repr(rule)) == rule
    assert Rule.from_config(rule.to_config()) == rule
    with guide(sd, rule):
        tiny.sample(sd, steps=1)
    for bad in ("Alignment()", "Alignment(3)", 'Alignment("")', '_Trained("x")'):
        with pytest.raises(ValueError, match="cannot read rule"):
            parse_rule(f"DynamicCFG((1, 4), {bad})")


# Who is refused


def refused(pipe: Any, rule: Rule, error: str) -> None:
    """The block is not entered, and the pipeline is as it was."""
    cls = type(pipe), type(tiny.denoiser(pipe))
    with pytest.raises(ValueError, match=error) as found, guide(pipe, rule):
        raise AssertionError("entered")
    assert "\n" not in str(found.value)
    assert (type(pipe), type(tiny.denoiser(pipe))) == cls


@pytest.mark.parametrize("kind", SCORING)
def test_a_wrong_path_is_refused_on_entering(kind: str, sd: Any) -> None:
    part = SCORING[kind]("nowhere")
    rules: tuple[Rule, ...] = (
        DynamicCFG((1, 4), part),
        CFG(3.0) + LossGuidance(1.0, part),
        AdaptiveGuidance(DynamicCFG((1, 4), part)),
        LossGuidance(1.0, part).between(0.0, 0.1),
    )
    for rule in rules:
        refused(sd, rule, "'nowhere' must be an evaluator that .* cannot be used")
    with pytest.raises(ValueError, match="'nowhere' must be an evaluator"):
        GradientFreeClassifierGuidance(1.0, LatentClassifier("nowhere"))
    refused(sd, ClassifierGuidance(1.0, NoisyClassifier("nowhere"), 1), "'nowhere' must be an eval")
    with pytest.raises(TypeError, match="path must be the folder of a trained evaluator, found 3"):
        SCORING[kind](3)  # type: ignore[arg-type]


def test_another_kind_is_refused(sd: Any, tmp_path: Path) -> None:
    folder = save_for(sd, tmp_path / "x0", "classifier")
    noisy = save_for(sd, tmp_path / "noisy", "classifier", read="noisy")
    refused(
        sd,
        DynamicCFG((1, 4), Reward(folder)),
        "Reward: path must hold one of kind reward, found one of kind classifier in",
    )
    refused(
        sd,
        ClassifierGuidance(1.0, NoisyClassifier(folder), 1),
        "NoisyClassifier: path must hold one that reads noisy, found one that reads x0 in",
    )
    with pytest.raises(ValueError, match="LatentClassifier: path must hold one that reads x0"):
        GradientFreeClassifierGuidance(1.0, LatentClassifier(noisy))


def test_other_latents_are_refused(sd: Any, dit: Any, tmp_path: Path) -> None:
    dit.vae = sd.vae
    rule = LossGuidance(1.0, Reward(save_for(dit, tmp_path, "reward")))
    guide(sd, rule)
    sd.vae.decoder.conv_in.weight.data *= 2  # another decoder of the same latents
    guide(sd, rule)
    other = copy.deepcopy(sd)
    other.vae.encoder.conv_in.weight.data *= 1.1
    refused(other, rule, "VAE: expected the encoder weights that it knows, found others; train one")
    changes: dict[str, Any] = {"scaling_factor": 0.5, "shift_factor": 0.1, "latents_mean": [1.0]}
    for name, value in changes.items():
        pipe = copy.deepcopy(sd)
        pipe.vae.register_to_config(**{name: value})
        refused(pipe, rule, f"was trained for another VAE: expected {name} .*, found")
    refused(FAMILIES["sana"](), rule, "was trained for another VAE: expected")
    pixels = FAMILIES["ddim"]()
    refused(pixels, rule, "was trained for another VAE: expected .*, found")
    with pytest.raises(ValueError, match="against a bare denoiser: guide the pipeline instead"):
        guide(sd.unet, rule, scheduler=sd.scheduler)


@pytest.mark.parametrize("kind", ["discriminator", "minority"])
def test_another_denoiser_is_refused(kind: str, sd: Any, sd3: Any, tmp_path: Path) -> None:
    folder = save_for(sd, tmp_path, kind)
    rule: Rule = LossGuidance(1.0, Discriminator(folder))
    if kind == "minority":
        rule = ClassifierGuidance(1.0, LatentClassifier(folder), 1)
    for dtype in (torch.float16, torch.bfloat16):
        guide(tiny.sd().to(dtype=dtype), rule)
    refused(tiny.sdxl(), rule, "another denoiser: expected the weights that it knows, found others")
    refused(sd3, rule, "expected UNet2DConditionModel, found SD3Transformer2DModel; train")
    sd3.vae = sd.vae
    others = save_for(sd3, tmp_path / "classifier", "classifier")
    guide(sd, ClassifierGuidance(1.0, LatentClassifier(others), 1))


@pytest.mark.parametrize("kind", ["alignment", "reward"])
def test_another_text_encoder_is_refused(kind: str, sd: Any, sdxl: Any, tmp_path: Path) -> None:
    rule = DynamicCFG((1, 4), SCORING[kind](save_for(sd, tmp_path, kind)))
    sdxl.vae = sd.vae
    for dtype in (torch.float16, torch.bfloat16):
        guide(tiny.sd().to(dtype=dtype), rule)
    sdxl.text_encoder = sd.text_encoder
    guide(sdxl, rule)
    for weight in sd.text_encoder.parameters():
        weight.data *= 1 + 0.3 * torch.randn(weight.shape, generator=torch.Generator())
    refused(sd, rule, "another text encoder: expected its features of a sentence, found others by")
    sd.text_encoder.config.hidden_size = 1
    sd.tokenizer = None
    refused(sd, rule, "has no tokenizer to read prompts with")


def test_a_prompt_is_needed(sd: Any, tmp_path: Path) -> None:
    rule = LossGuidance(1.0, Alignment(save_for(sd, tmp_path, "alignment")))
    embeds = torch.randn(1, 16, tiny.WIDTH)
    call: dict[str, Any] = {"prompt": None, "negative_prompt": None}
    with (
        pytest.raises(ValueError, match="reads a prompt for each of the 1 images, found 0; call"),
        guide(sd, rule),
    ):
        tiny.sample(sd, prompt_embeds=embeds, negative_prompt_embeds=embeds, **call)


def test_another_size_is_refused(sd: Any, tmp_path: Path) -> None:
    rule = LossGuidance(1.0, Reward(save_for(sd, tmp_path, "reward", size=(16, 16))))
    with (
        pytest.raises(ValueError, match=r"judges latents \(B, 4, 16, 16\), found shape \(1, 4, 8"),
        guide(sd, rule),
    ):
        tiny.sample(sd)


def test_origins_do_not_depend_on_precision() -> None:
    full, half = tiny.sd(), tiny.sd().to(dtype=torch.float16)
    exact = half.to(dtype=torch.float32)
    stored = (space_of(exact), denoiser_of(exact.unet), text_encoder_of(exact))
    again = tiny.sd().to(dtype=torch.float16)
    assert space_of(again) == stored[0]  # half precision, loaded in either
    assert denoiser_of(again.unet) == stored[1]
    assert space_of(full)["class"] == "AutoencoderKL"
