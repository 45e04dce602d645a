"""MinorityPrompt: its objective and gradient, a slow reference, and an untouched text encoder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from guidance import CADS, CFG, AdaptiveGuidance, PerpNeg, Rule, Step, guide
from guidance.core.noise import generator_of, own_generators
from guidance.core.spec import parse_rule
from guidance.core.token import PromptToken
from guidance.minority_prompt import MinorityPrompt, reconstruction_error
from tests import tiny, tiny_families
from tests.guidance.rules import Interrupt
from tests.tiny import close

LEARNING = MinorityPrompt(3, until=0.3)


def test_objective_is_the_distance_of_each_image() -> None:
    h, hh = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    expected = torch.stack([(a - b).norm() for a, b in zip(h, hh, strict=True)])
    torch.testing.assert_close(reconstruction_error(h, hh), expected)
    same = h.clone().requires_grad_()
    (slope,) = torch.autograd.grad(reconstruction_error(same, h).sum(), same)
    assert not slope.any()
    assert reconstruction_error(h.half(), hh.half()).dtype == torch.float32


def test_gradient_is_that_of_the_two_stopped_terms() -> None:
    """At lambda = 1, for both predictions any functions of v."""
    v = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    one, other = torch.randn(2, 4, 6, dtype=torch.float64)
    h, hh = torch.tanh(v @ one), (v @ other).sin()
    (plain,) = torch.autograd.grad(reconstruction_error(h, hh).sum(), v, retain_graph=True)
    stopped = (h.detach() - hh).norm(dim=1) + (h - hh.detach()).norm(dim=1)
    (theirs,) = torch.autograd.grad(stopped.sum(), v)
    torch.testing.assert_close(plain, theirs)


def by_hand(pipe: Any, rule: MinorityPrompt, noise: Tensor) -> tuple[Tensor, list[list[float]]]:
    """Four DDIM steps with a token learned as the paper says."""
    encoder, unet = pipe.text_encoder, pipe.unet
    table = encoder.get_input_embeddings()

    def tokens(text: str) -> Tensor:
        return pipe.tokenizer(text, padding="max_length", return_tensors="pt").input_ids

    ids, place = tokens(f"{tiny.PROMPT} x"), len("redfox") + 1

    def encode(v: Tensor) -> Tensor:
        def put(module: Any, args: Any, output: Tensor) -> Tensor:
            return torch.cat([output[:, :place], v.view(1, 1, -1), output[:, place + 1 :]], 1)

        handle = table.register_forward_hook(put)
        try:
            return encoder(ids)[0]
        finally:
            handle.remove()

    signal = pipe.scheduler.alphas_cumprod

    def x0(x: Tensor, t: int, text: Tensor) -> Tensor:
        eps = unet(x, t, encoder_hidden_states=text).sample
        return (x - (1 - signal[t]).sqrt() * eps) / signal[t].sqrt()

    with torch.no_grad():
        cond, uncond = encoder(tokens(tiny.PROMPT))[0], encoder(tokens(tiny.NEGATIVE))[0]
    x, v, history, generator = noise, table.weight.mean(0), [], generator_of(rule.seed, noise[0])
    for t, after, learns in ((751, 501, True), (501, 251, True), (251, 1, False), (1, 0, False)):
        if learns:
            v = v.detach().clone().requires_grad_()
            adam, errors = torch.optim.Adam([v], lr=rule.rate), []
            for _ in range(rule.iterations):
                h, n = x0(x, t, encode(v)), torch.randn(1, 4, 8, 8, generator=generator)
                noisy = signal[501].sqrt() * h + (1 - signal[501]).sqrt() * n
                error = (h - x0(noisy, 501, cond)).norm()
                errors.append(error.item())
                (v.grad,) = torch.autograd.grad(-error, v)
                adam.step()
            history.append(errors)
        with torch.no_grad():
            eps_u = unet(x, t, encoder_hidden_states=uncond).sample
            eps = eps_u + 5.0 * (unet(x, t, encoder_hidden_states=encode(v)).sample - eps_u)
            clean = (x - (1 - signal[t]).sqrt() * eps) / signal[t].sqrt()
            x = signal[after].sqrt() * clean + (1 - signal[after]).sqrt() * eps
    return x, history


def objectives(run: Any) -> list[Any]:
    return [record.extras.get("MinorityPrompt: objective") for record in run.report.steps]


def test_matches_a_sampler_written_from_the_paper(sd: Any) -> None:
    noise, rule = torch.randn(1, 4, 8, 8), MinorityPrompt(3, until=0.5, level=0.5)
    expected, history = by_hand(sd, rule, noise)
    sd.scheduler = DDIMScheduler.from_config(sd.scheduler.config, set_alpha_to_one=False)
    with guide(sd, CFG(5.0) + rule) as run:
        actual = tiny.sample(sd, latents=noise)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
    found = [[value for (value,) in each] for each in objectives(run)[:2]]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(history), rtol=1e-3, atol=0)
    assert objectives(run)[2:] == [None, None]
    assert [record.evaluations for record in run.report.steps] == [8, 8, 2, 2]


@dataclass(frozen=True, repr=False)
class Probed(MinorityPrompt):
    """Compares gradients with differences at the first step, and learns nothing."""

    def rewrite(self, step: Step, token: PromptToken) -> Mapping[str, Tensor]:
        with torch.enable_grad():
            at = [each.double().requires_grad_() for each in token.initial()]
            seeds = [each.get_state() for each in own_generators(step, "MinorityPrompt", 0)]

            def error(embeddings: list[Tensor]) -> Tensor:
                for each, state in zip(
                    own_generators(step, "MinorityPrompt", 0), seeds, strict=True
                ):
                    each.set_state(state)
                return self._error(step, token.encode(embeddings))

            slopes = torch.autograd.grad(error(at).sum(), at)
        with torch.no_grad():
            for number, slope in enumerate(slopes):
                along = torch.randn_like(slope)
                ends = [
                    error([x + sign * along if i == number else x for i, x in enumerate(at)])
                    for sign in (1e-5, -1e-5)
                ]
                step.notes[f"ratio {number}"] = ((ends[0] - ends[1]) / 2e-5).tolist()
                step.notes[f"slope {number}"] = (slope * along).sum(1).tolist()
        return {}


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
def test_gradient_is_the_slope_of_each_image_and_encoder(family: str) -> None:
    pipe: Any = tiny.FAMILIES[family]().to(torch.float64)
    noise = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    with guide(pipe, Probed(until=0.1)) as run:
        tiny.sample(pipe, 1.0, batch=2, steps=2, latents=noise)
    notes = run.report.steps[0].extras
    for number in range(1 if family == "sd" else 2):
        assert notes[f"ratio {number}"] == pytest.approx(notes[f"slope {number}"], rel=1e-4)
        assert min(map(abs, notes[f"slope {number}"])) > 1e-6


@dataclass(frozen=True, repr=False)
class Compared(MinorityPrompt):
    """Notes the mean objective over the same noise before and after learning."""

    def rewrite(self, step: Step, token: PromptToken) -> Mapping[str, Tensor]:
        learned = super().rewrite(step, token)
        if step.index == 0:
            generators = own_generators(step, "MinorityPrompt", 0)
            for name, text in (("before", token.encode(token.initial())), ("after", learned)):
                for seed, generator in enumerate(generators):
                    generator.manual_seed(seed)
                errors = torch.stack([self._error(step, text) for _ in range(8)])
                step.notes[name] = errors.mean(0).tolist()
        return learned


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
def test_objective_rises(family: str) -> None:
    pipe: Any = tiny.FAMILIES[family]()
    with guide(pipe, CFG(5.0) + Compared(20, 0.05)) as run:
        tiny.sample(pipe, batch=2, steps=2)
    notes = run.report.steps[0].extras
    assert all(a > b for a, b in zip(notes["after"], notes["before"], strict=True))


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux", "pixart_sigma", "hunyuan_video"])
def test_nothing_of_the_text_encoders_changes(name: str) -> None:
    family = tiny_families.FAMILIES.get(name)
    pipe: Any = family() if family else tiny.FAMILIES[name]()

    def call() -> Tensor:
        return family.call(pipe) if family else tiny.sample(pipe, steps=2)

    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    before = [{k: v.clone() for k, v in part.state_dict().items()} for part in parts]
    words = len(pipe.tokenizer)
    plain = call()
    hooks = [len(module._forward_hooks) for part in parts for module in part.modules()]
    with guide(pipe, LEARNING) as run:
        learned = call()
    assert (learned - plain).abs().max() > 1e-5
    with pytest.raises(KeyboardInterrupt), guide(pipe, LEARNING + Interrupt()):
        call()
    assert torch.equal(call(), plain)
    assert objectives(run)[0] is not None
    assert len(pipe.tokenizer) == words
    assert "encode_prompt" not in vars(type(pipe)) or type(pipe).__module__.startswith("diffusers")
    assert [len(module._forward_hooks) for part in parts for module in part.modules()] == hooks
    for part, state in zip(parts, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in part.state_dict().items())
        assert all(parameter.grad is None for parameter in part.parameters())


def test_each_image_learns_a_token_of_its_own(sd: Any) -> None:
    with guide(sd, CFG(5.0) + LEARNING) as run:
        together = tiny.sample(sd, batch=2)
        close(tiny.sample(sd)[0], together[0])
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        twice = tiny.sample(sd, num_images_per_prompt=2, prompt=[tiny.PROMPT], generator=generators)
    close(twice[0], together[0])
    first, _, _, _, alone, *_ = objectives(run)
    assert [one for one, _ in first] == pytest.approx([one for (one,) in alone], rel=1e-4)
    again = objectives(run)[8]
    assert [one for one, _ in again] == pytest.approx([one for one, _ in first], rel=1e-4)
    assert again[-1][0] != pytest.approx(again[-1][1], rel=1e-4)


def test_no_iteration_is_no_token(sd: Any) -> None:
    native = tiny.sample(sd, batch=2)
    for rule in (MinorityPrompt(0), MinorityPrompt(until=0.0), LEARNING.between(0, 0)):
        with guide(sd, CFG(5.0) + rule) as run:
            assert torch.equal(tiny.sample(sd, batch=2), native)
        assert run.report.nfe == 8


def test_settings_have_an_effect(sd: Any) -> None:
    rules = [
        LEARNING,
        MinorityPrompt(4, until=0.3),
        MinorityPrompt(3, 0.02, until=0.3),
        MinorityPrompt(3, until=0.6),
        MinorityPrompt(3, until=0.3, level=0.3),
        MinorityPrompt(3, until=0.3, word="q"),
        MinorityPrompt(3, until=0.3, position="start"),
        MinorityPrompt(3, until=0.3, seed=1),
        LEARNING.between(0.0, 0.7),
    ]
    ends = []
    for rule in rules:
        with guide(sd, CFG(5.0) + rule):
            ends.append(tiny.sample(sd))
    for i, one in enumerate(ends):
        assert all((one - other).abs().max() > 1e-6 for other in ends[:i])


@pytest.mark.parametrize("word", ["x", "q"])
def test_token_starts_as_the_word(sd: Any, word: str) -> None:
    """At a rate of almost nothing it is the prompt with that word."""
    with guide(sd, CFG(5.0) + MinorityPrompt(1, 1e-12, word=word)):
        guided = tiny.sample(sd)
    close(guided, tiny.sample(sd, prompt=[f"{tiny.PROMPT} {word}"]))
    with guide(sd, CFG(5.0) + MinorityPrompt(1, 1e-12, word=word, position="start")) as run:
        guided = tiny.sample(sd)
    assert run.report.nfe == 10
    close(guided, tiny.sample(sd, prompt=[f"{word} {tiny.PROMPT}"]))


def test_prompts_that_are_cut_off_have_the_token_at_their_start(sd: Any) -> None:
    long = "abcdefghijklmnopqrstu"
    with guide(sd, CFG(5.0) + MinorityPrompt(1, 1e-12, word="q")):
        guided = tiny.sample(sd, prompt=[long, "red fox"], negative_prompt=["", ""], batch=2)
    plain = tiny.sample(sd, prompt=[f"q {long}", "red fox q"], negative_prompt=["", ""], batch=2)
    close(guided, plain)


def test_other_rules_beside_it(sd: Any) -> None:
    with guide(sd, CFG(5.0) + LEARNING):
        expected = tiny.sample(sd)
    with guide(sd, AdaptiveGuidance(CFG(5.0) + LEARNING, 1.0)):
        close(tiny.sample(sd), expected)
    for beside in (CFG(5.0) + CADS(), PerpNeg(("grey",), 2.0, 5.0)):
        with guide(sd, beside + LEARNING):
            assert tiny.sample(sd).isfinite().all()


def test_settings_of_the_call_are_kept(sdxl: Any) -> None:
    with guide(sdxl, CFG(5.0) + MinorityPrompt(1, 1e-12, word="q")):
        guided = tiny.sample(sdxl, clip_skip=1, prompt_2=["blue owl"])
        other = tiny.sample(sdxl, prompt_2=["blue owl"])
    assert not torch.allclose(guided, other, atol=1e-3)
    texts: dict[str, Any] = {"prompt": [f"{tiny.PROMPT} q"], "prompt_2": ["blue owl q"]}
    close(guided, tiny.sample(sdxl, clip_skip=1, **texts))


def test_half_precision_learns(sd: Any) -> None:
    pipe = sd.to(dtype=torch.bfloat16)
    with guide(pipe, CFG(5.0) + LEARNING) as run:
        assert tiny.sample(pipe).isfinite().all()
    assert torch.tensor(objectives(run)[0]).isfinite().all()


def test_what_cannot_be_given_a_token_is_refused(sd: Any, dit: Any) -> None:
    with pytest.raises(ValueError, match="needs a pipeline with encode_prompt, which DiTPipeline"):
        guide(dit, LEARNING)
    with pytest.raises(ValueError, match="encode_prompt, which UNet2DConditionModel has not"):
        guide(sd.unet, LEARNING, scheduler=sd.scheduler)
    embeds = sd.encode_prompt("a", "cpu", 1, True, "b")
    call = {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1]}
    with (
        guide(sd, CFG(5.0) + LEARNING),
        pytest.raises(ValueError, match="needs prompts as text, found embeddings"),
    ):
        tiny.sample(sd, prompt=None, negative_prompt=None, **call)
    with (
        guide(sd, CFG(5.0) + MinorityPrompt(word="owl")),
        pytest.raises(ValueError, match="word must be one token of every tokenizer of Stable"),
    ):
        tiny.sample(sd)
    with (
        torch.inference_mode(),
        guide(sd, CFG(5.0) + LEARNING),
        pytest.raises(ValueError, match="must be differentiable, found a prediction"),
    ):
        tiny.sample(sd)
    with pytest.raises(ValueError, match="at most one rule may put a token into the prompt"):
        LEARNING + CFG(5.0) + MinorityPrompt()


@pytest.mark.parametrize("name", tiny_families.FAMILIES)
def test_every_family_learns_or_says_why_not(name: str) -> None:
    family = tiny_families.FAMILIES[name]
    pipe = family()
    try:
        with guide(pipe, MinorityPrompt(1, until=0.3)) as run:
            assert family.call(pipe, scale=family.off, batch=2).isfinite().all()
    except ValueError as error:
        known = "leave the rule out|pipelines that encode prompts under no_grad"
        assert re.search(known, str(error)), error
        assert name not in ("flux", "pixart_sigma", "wan", "chroma")
    else:
        assert objectives(run)[0] is not None


@pytest.mark.parametrize(
    "rule",
    [MinorityPrompt(), MinorityPrompt(3, 0.1, 0.2, 0.3, "old", "start", 4).between(0, 0.5)],
)
def test_repr_json_and_text_rebuild_it(rule: Rule) -> None:
    assert eval(repr(rule), {"MinorityPrompt": MinorityPrompt}) == rule
    chain = CFG(4.0) + rule
    assert Rule.from_config(json.loads(json.dumps(chain.to_config()))) == chain
    assert parse_rule(repr(chain)) == chain


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 1.5}, "MinorityPrompt: iterations must be a whole number, found 1.5"),
        ({"iterations": -1}, "MinorityPrompt: iterations must be a finite number from 0"),
        ({"rate": 0}, "MinorityPrompt: rate must be above 0"),
        ({"until": 1.1}, "MinorityPrompt: until must be a finite number from 0 to 1"),
        ({"level": 1.1}, "MinorityPrompt: level must be a finite number from 0 to 1"),
        ({"position": "middle"}, "position must be end or start, found 'middle'"),
        ({"seed": 0.5}, "MinorityPrompt: seed must be a whole number, found 0.5"),
    ],
)
def test_impossible_settings_raise(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MinorityPrompt(**settings)
    with pytest.raises(TypeError, match="MinorityPrompt: word must be a word or None, found ' '"):
        MinorityPrompt(word=" ")
