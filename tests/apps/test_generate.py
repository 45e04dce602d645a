"""Batches: every picture is its own, and the pipeline is asked for what a rule needs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apps.generate import Call, Job, generate
from guidance import CFG, guide
from tests import tiny

JOBS = [Job("red fox", 5), Job("blue owl", 5), Job("red fox", 6)]


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_a_picture_of_a_batch_is_the_same_alone(family: str) -> None:
    pipe = tiny.FAMILIES[family]()
    call = Call(steps=4, guided=True)
    with guide(pipe, CFG(4.0)):
        together = list(generate(pipe, JOBS, call, batch_size=3))
        apart = list(generate(pipe, JOBS, call, batch_size=1))
    assert len(together) == len(JOBS)
    for one, other in zip(together, apart, strict=True):
        difference = np.asarray(one).astype(int) - np.asarray(other)
        assert abs(difference).max() <= 1  # kernels may differ in the last bit with the batch size
    assert np.asarray(together[0]).tobytes() != np.asarray(together[2]).tobytes()


def test_unguided_is_the_plain_conditional_prediction(sd: Any) -> None:
    (plain,) = generate(sd, JOBS[:1], Call(steps=3, guided=False))
    with guide(sd, CFG(1.0)):
        (neutral,) = generate(sd, JOBS[:1], Call(steps=3, guided=True))
    assert plain.tobytes() == neutral.tobytes()


def test_negative_prompt_and_size_reach_the_pipeline(sd: Any) -> None:
    call = Call(steps=3, guided=True, negative_prompt="grey cat", height=32, width=24)
    with guide(sd, CFG(9.0)):
        (image,) = generate(sd, JOBS[:1], call)
        (other,) = generate(sd, JOBS[:1], Call(steps=3, guided=True, height=32, width=24))
    assert image.size == (24, 32)
    assert image.tobytes() != other.tobytes()


def test_progress_ends_at_the_number_of_pictures(sd: Any) -> None:
    seen: list[float] = []
    list(generate(sd, JOBS, Call(steps=2, guided=False), batch_size=2, on_progress=seen.append))
    assert seen == sorted(seen)
    assert seen[0] == 1.0
    assert seen[-1] == 3


class TwoCalls:
    """Like FLUX: guidance by a second call, on with ``true_cfg_scale`` and a negative prompt."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    def __call__(
        self,
        prompt: Any = None,
        negative_prompt: Any = None,
        true_cfg_scale: float = 1.0,
        guidance_scale: float = 3.5,
        num_inference_steps: int = 50,
        generator: Any = None,
    ) -> Any:
        self.given = {"negative": negative_prompt, "true": true_cfg_scale, "own": guidance_scale}
        return SimpleNamespace(images=[Image.new("RGB", (8, 8)) for _ in prompt])


@pytest.mark.parametrize(
    ("guided", "given"),
    [
        (True, {"negative": ["", ""], "true": 2.0, "own": 3.5}),
        (False, {"negative": None, "true": 1.0, "own": 3.5}),
    ],
)
def test_pipelines_of_two_calls_are_switched_on(guided: bool, given: dict[str, Any]) -> None:
    pipe = TwoCalls()
    assert len(list(generate(pipe, JOBS[:2], Call(steps=3, guided=guided)))) == 2
    assert pipe.given == given


def test_what_a_pipeline_does_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match="TwoCalls takes no height"):
        list(generate(TwoCalls(), JOBS, Call(steps=3, guided=True, height=64)))


class Sound:
    """Takes the arguments of a text-to-image pipeline, and makes none."""

    def __call__(self, prompt: Any, num_inference_steps: int, generator: Any) -> Any:
        return SimpleNamespace(audios=[0])


def test_a_pipeline_without_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="Sound makes no pictures"):
        list(generate(Sound(), JOBS, Call(steps=1, guided=False)))
