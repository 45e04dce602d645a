"""Evaluators that need no training: closed forms, row by row; and pictures behind a VAE."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from guidance import DynamicCFG, Step, guide
from guidance.evaluators import Agreement, Clipping, Decoded, Evaluator, Saturation
from guidance.evaluators.agreement import CHOSEN
from guidance.evaluators.panel import normalised
from tests import tiny
from tests.tiny import close


def step(**changes: Any) -> Step:
    """A call at which nothing is predicted."""
    x = torch.zeros(3, 2, 2, 2)
    return Step(0, 4, 1.0, 0.6, 0.8, x, "sample", lambda branch: x, **changes)


def score(evaluator: Evaluator, x0: Tensor, **changes: Any) -> list[float]:
    return evaluator.score(x0, step(**changes), changes.get("prompts")).tolist()


def test_saturation_is_the_spread_above_that_of_data() -> None:
    x0 = torch.randn(3, 2, 2, 2).half() * torch.tensor([9.0, 0.0, 0.3]).view(3, 1, 1, 1).half()
    spreads = [float(image.float().std()) for image in x0]
    for reference in (1.0, 0.1):
        expected = [-max(spread - reference, 0) for spread in spreads]
        assert score(Saturation(reference), x0) == pytest.approx(expected, abs=1e-5)
    assert Saturation() == Saturation(1.0)
    assert Saturation(0.1).score(x0, step(), None).dtype == torch.float32


def test_clipping_is_the_share_outside_the_range() -> None:
    x0 = torch.tensor([[-1.5, -1.0, 0.2, 1.2], [0.0, 0.1, 0.9, -0.9], [2.0, 3.0, -4.0, 5.0]])
    assert score(Clipping(), x0.view(3, 1, 2, 2)) == [-0.5, 0.0, -1.0]
    assert score(Clipping(0.15), x0.view(3, 4)) == [-1.0, -0.5, -1.0]
    assert Clipping().score(x0.half(), step(), None).dtype == torch.float32


def test_agreement_is_the_distance_to_the_choice_before() -> None:
    x0 = torch.zeros(3, 2, 2, 2)
    assert score(Agreement(), x0) == [0, 0, 0]
    last = torch.tensor([0.0, 2.0, -3.0]).view(3, 1, 1, 1).expand_as(x0)
    assert score(Agreement(), x0, memory={CHOSEN: last}) == [0, -2, -3]


@pytest.mark.parametrize("evaluator", [Saturation(0.1), Clipping(0.3), Agreement()])
def test_every_image_is_judged_alone(evaluator: Any) -> None:
    x0, last = torch.randn(2, 3, 4, 5, 5)
    together = score(evaluator, x0, memory={CHOSEN: last})
    for b in range(3):
        memory = {CHOSEN: last[b : b + 1]}
        assert score(evaluator, x0[b : b + 1], memory=memory) == pytest.approx(together[b : b + 1])


@pytest.mark.parametrize("kind", [Saturation, Clipping])
def test_impossible_bounds_raise(kind: Any) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: .* from 0 up, found -1"):
        kind(-1)
    with pytest.raises(TypeError, match=f"{kind.__name__}: .* from 0 up, found '1'"):
        kind("1")


# Pictures


def brightness(pictures: Tensor, prompts: Any) -> Tensor:
    return pictures.mean((1, 2, 3))


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_a_vae_decodes_what_the_pipeline_shows(name: str) -> None:
    pipe = tiny.FAMILIES[name]()
    pipe.vae.register_to_config(shift_factor=0.3 if name == "sd3" else None)
    latents = tiny.sample(pipe, batch=2)
    shown = tiny.sample(pipe, batch=2, output_type="pt")
    seen: list[Tensor] = []

    def scorer(pictures: Tensor, prompts: Any) -> Tensor:
        seen.append(pictures)
        return brightness(pictures, prompts)

    with torch.no_grad():
        scores = Decoded(scorer, pipe).score(latents, step(), None)
    close(seen[0], shown)
    close(scores, brightness(shown, None))
    with torch.no_grad():
        close(Decoded(brightness, pipe.vae).score(latents, step(), None), scores)


def test_a_vae_of_means_and_deviations() -> None:
    pipe = tiny.sd()
    latents = torch.randn(2, 4, 4, 4)
    mean, std = torch.randn(4), torch.rand(4) + 0.5
    pipe.vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    scaled = latents * std.view(4, 1, 1) / pipe.vae.config.scaling_factor + mean.view(4, 1, 1)
    with torch.no_grad():
        expected = (pipe.vae.decode(scaled).sample / 2 + 0.5).clamp(0, 1)
        result = Decoded(brightness, pipe).score(latents, step(), None)
    close(result, brightness(expected, None))


def test_half_precision_is_decoded_in_float32() -> None:
    pipe = tiny.sd().to(dtype=torch.float16)
    evaluator = Decoded(brightness, pipe)
    with torch.no_grad():
        result = evaluator.score(torch.randn(2, 4, 4, 4), step(), None)
    assert result.dtype == torch.float32
    assert pipe.vae.dtype == torch.float16


def test_chunks_of_pictures_come_with_their_prompts() -> None:
    seen: list[Any] = []

    def scorer(pictures: Tensor, prompts: Any) -> Tensor:
        seen.append((len(pictures), prompts))
        return pictures.flatten(1).mean(1)

    x0 = torch.linspace(-1.5, 1.5, 5).view(5, 1, 1, 1)
    evaluator = Decoded(scorer, None, chunk=2)
    assert score(evaluator, x0, prompts=tuple("abcde")) == [0, 0.125, 0.5, 0.875, 1]
    assert seen == [(2, ("a", "b")), (2, ("c", "d")), (1, ("e",))]
    assert score(evaluator, x0)[0] == 0
    assert seen[-1] == (1, None)
    doubled = Decoded(brightness, lambda x0: (2 * x0).double())
    assert doubled.score(x0 / 4, step(), None).dtype == torch.float32
    assert score(doubled, x0 / 4) == [0, 0, 0, 0.375, 0.75]


def redness(pictures: Tensor, prompts: Any) -> Tensor:
    assert list(prompts) == [tiny.PROMPT, "blue owl"]
    return pictures[:, 0].mean((1, 2)) - pictures[:, 1:].mean((1, 2, 3))


def blueness(pictures: Tensor, prompts: Any) -> Tensor:
    return -redness(pictures, prompts)


def test_a_scorer_of_pictures_steers_a_pipeline(sd: Any) -> None:
    results = []
    for scorer in (redness, blueness):
        with guide(sd, DynamicCFG((1, 5, 12), Decoded(scorer, sd))):
            pictures = tiny.sample(sd, batch=2, output_type="pt")
        results.append(redness(pictures, (tiny.PROMPT, "blue owl")))
    assert (results[0] > results[1]).all()


def test_impossible_settings_of_pictures_raise() -> None:
    with pytest.raises(TypeError, match=r"scorer must be a function of pictures.*found str"):
        Decoded("clip", None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"decode must be a VAE, a pipeline with one.*found int"):
        Decoded(brightness, 3)
    for chunk in (0, 1.5):
        with pytest.raises(ValueError, match="chunk must be"):
            Decoded(brightness, None, chunk)  # type: ignore[arg-type]
    packed = Decoded(brightness, tiny.sd())
    with pytest.raises(ValueError, match=r"a VAE takes latents .* found shape \(2, 16, 64\); give"):
        packed.score(torch.zeros(2, 16, 64), step(), None)
    assert repr(packed) == "Decoded(scorer=<brightness>, decode=<StableDiffusionPipeline>)"
    with pytest.raises(ValueError, match="DynamicCFG: evaluators has no JSON form"):
        DynamicCFG((1, 4), packed).to_config()


# Normalisation


def test_normalised_scores_by_hand() -> None:
    scores = torch.tensor([[1.0, 5.0], [3.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    flat = torch.zeros(4)
    for how, column in (
        ("minmax", [0.0, 1.0, 0.5, 1.0]),
        ("rank", [0.0, 2.5 / 3, 1 / 3, 2.5 / 3]),
        ("zscore", [(s - 2.25) / 0.6875**0.5 for s in (1, 3, 2, 3)]),
    ):
        expected = torch.stack([torch.tensor(column), flat], 1)
        torch.testing.assert_close(normalised(scores, how), expected)
    assert torch.equal(normalised(scores, "none"), scores)


@pytest.mark.parametrize("how", ["minmax", "zscore", "rank"])
def test_scores_that_are_not_finite_count_for_nothing(how: str) -> None:
    scores = torch.tensor([1.0, 4.0, 2.0, 4.0])[:, None]
    for bad in (float("nan"), float("inf"), -float("inf")):
        mixed = torch.cat([scores[:2], torch.full((1, 1), bad), scores[2:]])
        kept = torch.tensor([0, 1, 3, 4])
        torch.testing.assert_close(normalised(mixed, how)[kept], normalised(scores, how))
        assert not normalised(mixed, how)[2].isfinite().any()
    single = torch.tensor([[float("nan")], [7.0]])
    assert normalised(single, how)[1] == 0
