"""Text features: a slow reference, every pipeline, every batch, and what has none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from guidance import CFG, COND, Direction, Step, guide
from guidance.core.text import TextFeatures, text_features
from tests import tiny
from tests.tiny import close
from tests.tiny_families import FAMILIES

PROMPTS = ("a red fox", "owl", "")


def reference(pipe: Any, prompt: str) -> torch.Tensor:
    """Padded to the longest, with the encoder's own attention mask, token by token."""
    longest = pipe.tokenizer.model_max_length
    batch = pipe.tokenizer(
        [prompt], padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        state = pipe.text_encoder(**batch).last_hidden_state[0]
    attended = [state[place] for place, mask in enumerate(batch.attention_mask[0]) if mask]
    return torch.cat([sum(attended) / len(attended), attended[-1]])


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3"])
def test_a_slow_reference(name: str) -> None:
    pipe = tiny.FAMILIES[name]()
    found = text_features(pipe, PROMPTS)
    assert found.shape == (3, 2 * tiny.WIDTH)
    for row, prompt in zip(found, PROMPTS, strict=True):
        close(row, reference(pipe, prompt))
    assert (found[0] - found[1]).abs().max() > 0.1


def test_long_prompts_are_cut(sd: Any) -> None:
    found = text_features(sd, ["red fox " * 20])[0]
    close(found, reference(sd, "red fox " * 20))


@pytest.mark.parametrize("name", ["pixart_sigma", "qwen", "flux2_klein", "hunyuan_dit", "sana"])
def test_encoders_of_many_kinds(name: str) -> None:
    pipe = FAMILIES[name]()
    found = text_features(pipe, PROMPTS)
    assert found.shape == (3, 64)
    assert found.isfinite().all()
    assert torch.equal(text_features(pipe, PROMPTS[1:2])[0], found[1])


def test_half_precision_is_read_in_float32(sd: Any) -> None:
    full = text_features(sd, PROMPTS)
    half = text_features(sd.to(dtype=torch.float16), PROMPTS)
    assert half.dtype == torch.float32
    assert (half - full).norm() < 0.01 * full.norm()


def test_each_prompt_is_encoded_once(sd: Any) -> None:
    rows: list[int] = []
    sd.text_encoder.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(args[0])), with_kwargs=True
    )
    features = TextFeatures(sd)
    first = features(["fox", "owl", "fox"])
    assert torch.equal(first[0], first[2])
    assert torch.equal(features(["owl"])[0], first[1])
    assert rows == [1, 1]
    assert not first.requires_grad


def test_learned_tokens_of_several_vectors(sd: Any) -> None:
    sd.tokenizer.add_tokens(["<toy>", "<toy>_1"])
    sd.text_encoder.resize_token_embeddings(len(sd.tokenizer), mean_resizing=False)
    close(text_features(sd, ["<toy>"])[0], reference(sd, "<toy> <toy>_1"))


class Reader(Direction):
    """Keeps the text features of every step."""

    seen: list[torch.Tensor] = []  # noqa: RUF012

    def guide(self, step: Step) -> torch.Tensor:
        assert step.prompts is not None
        self.seen.append(step.text_features(step.prompts))
        return step.evaluate(COND)


def test_a_step_reads_its_prompts(sd: Any) -> None:
    encoder, calls = sd.text_encoder, []
    with guide(sd, Reader() + CFG(3.0)):
        tiny.sample(sd, batch=2, steps=1)
        encoder.register_forward_pre_hook(lambda *_: calls.append(1))
        embeds = torch.zeros(2, 16, tiny.WIDTH)
        with pytest.raises(AssertionError):
            tiny.sample(
                sd,
                prompt=None,
                negative_prompt=None,
                prompt_embeds=embeds,
                negative_prompt_embeds=embeds,
                batch=2,
            )
    assert not calls
    close(Reader.seen[0], text_features(sd, [tiny.PROMPT, "blue owl"]))


def test_what_has_no_text(sd: Any, dit: Any) -> None:
    with pytest.raises(ValueError, match="a bare denoiser has no text encoder to read prompts"):
        text_features(None, ["fox"])
    with pytest.raises(ValueError, match="DiTPipeline has no tokenizer to read prompts with"):
        text_features(dit, ["fox"])
    with pytest.raises(ValueError, match="need prompts, found the class label 3"):
        text_features(sd, [3])
    nothing: Any = []
    for bad in ("fox", nothing):
        with pytest.raises(ValueError, match="need a list of prompts, found"):
            text_features(sd, bad)
    with pytest.raises(ValueError, match=r"ClapModel gives no hidden state for text alone"):
        text_features(FAMILIES["audioldm2"](), ["fox"])
    x = torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match="there is no text encoder to read prompts with"):
        Step(0, 1, 1.0, 0.6, 0.8, x, "sample", lambda branch: x).text_features(["fox"])
