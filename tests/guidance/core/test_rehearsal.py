"""Extra prompts: encoded by the pipeline itself, without a trace."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from guidance import COND, Direction, Step, guide, prompt
from guidance.core.prediction import Branch
from tests import tiny
from tests.tiny import close


@dataclass(frozen=True, repr=False)
class Instead(Direction):
    """Samples with another prompt than the pipeline's."""

    text: Any

    def needs(self, step: Step) -> Iterable[Branch]:
        return (prompt(self.text),)

    def prompts(self) -> tuple[prompt, ...]:
        return (prompt(self.text),)

    def guide(self, step: Step) -> torch.Tensor:
        return step.evaluate(prompt(self.text))


TEXTS = ("blue owl", "a hat")


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_the_other_prompt_is_used_with_all_that_belongs_to_it(family: str, scale: float) -> None:
    pipe = tiny.FAMILIES[family]()
    call: dict[str, Any] = {"num_images_per_prompt": 2, "generator": torch.Generator()}
    seeded = {"generator": torch.Generator().manual_seed(7)}
    expected = tiny.sample(pipe, 1.0, batch=2, prompt=list(TEXTS), **call | seeded)
    seeded = {"generator": torch.Generator().manual_seed(7)}
    with guide(pipe, Instead(TEXTS)) as run:
        close(tiny.sample(pipe, scale, batch=2, **call | seeded), expected)
    assert run.report.nfe == 8


def test_class_labels_are_prompts_too(dit: Any) -> None:
    settings: dict[str, Any] = {"num_inference_steps": 3, "output_type": "pt"}

    def sample(labels: list[int], scale: float) -> torch.Tensor:
        return dit(
            labels, guidance_scale=scale, generator=torch.Generator().manual_seed(3), **settings
        ).images

    with guide(dit, Instead((7, 9))):
        close(sample([1, 2], 4.0), sample([7, 9], 1.0))
    with guide(dit, Instead(7)):
        close(sample([1, 2], 4.0), sample([7, 7], 1.0))


def test_one_text_serves_every_prompt(sd: Any) -> None:
    with guide(sd, Instead("a hat")):
        close(tiny.sample(sd, batch=2), tiny.sample(sd, 1.0, batch=2, prompt=["a hat"] * 2))
        call: dict[str, Any] = {"negative_prompt": tiny.NEGATIVE, "prompt": "a hat"}
        close(tiny.sample(sd, **call | {"prompt": "red fox"}), tiny.sample(sd, 1.0, **call))


def test_the_main_prompt_may_be_given_as_embeddings(sdxl: Any) -> None:
    names = ("prompt_embeds", "negative_prompt_embeds")
    pooled = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    embeds = dict(zip((*names, *pooled), sdxl.encode_prompt("red fox"), strict=True))
    call: dict[str, Any] = {"prompt": None, "negative_prompt": None}
    expected = tiny.sample(sdxl, 1.0, prompt=["a hat"])
    with guide(sdxl, Instead("a hat")):
        close(tiny.sample(sdxl, **call | embeds), expected)


def test_random_numbers_and_the_denoiser_are_left_alone(sd: Any) -> None:
    rows = tiny.Rows(sd)

    def sample() -> torch.Tensor:
        torch.manual_seed(5)
        call = {"guidance_scale": 1.0, "eta": 1.0, "num_inference_steps": 2}
        return sd("red fox", output_type="latent", **call).images

    expected = sample()
    with guide(sd, Instead("red fox"), batching="sequential"):
        close(sample(), expected)
    assert rows.seen == [1, 1, 1, 1, 1, 1]


def test_the_progress_bar_is_shown_once(sd: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sd.set_progress_bar_config(disable=False)
    with guide(sd, Instead("a hat")):
        tiny.sample(sd, steps=2)
    assert "0/0" not in (shown := capsys.readouterr().err)
    assert shown.count("100%") == 1
    assert sd._progress_bar_config == {"disable": False}


def test_wrong_use_is_named(sd: Any) -> None:
    with (
        guide(sd, Instead(TEXTS)),
        pytest.raises(ValueError, match="1 prompts of the call, found 2"),
    ):
        tiny.sample(sd, batch=1)
    with pytest.raises(ValueError, match="guide the pipeline instead"):
        guide(sd.unet, Instead("a hat"), scheduler=sd.scheduler)


def test_a_prompt_that_was_not_announced_is_named(sd: Any) -> None:
    class Sudden(Instead):
        def prompts(self) -> tuple[prompt, ...]:
            return ()

        def needs(self, step: Step) -> Iterable[Branch]:
            return (COND,)

    with guide(sd, Sudden("a hat")), pytest.raises(ValueError, match="a hat"):
        tiny.sample(sd)
