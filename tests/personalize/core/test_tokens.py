"""New words: looked up in rows of their own, known within a block alone."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from personalize.core.artifact import Artifact
from personalize.core.backbone import Backbone, Conditioning
from personalize.core.backbones import backbone_of
from personalize.core.loading import load
from personalize.core.tokens import (
    Placeholder,
    check_token,
    nearest_words,
    pooled_at_end,
    random_rows,
    rescale,
    std_pull,
    text_rows,
    with_word,
)
from tests import tiny
from tests.personalize.core.test_backbone import FAMILIES, same

TOKEN = "<fox>"


def frozen(pipe: Any) -> Backbone:
    """The backbone of a pipeline without trainable parts."""
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    return backbone_of(pipe)


def noise_rows(backbone: Backbone, vectors: int) -> dict[str, torch.Tensor]:
    """Different random rows for each text encoder."""
    generator = torch.Generator().manual_seed(5)
    return {
        encoder.key: random_rows(encoder, vectors, generator) for encoder in backbone.text_encoders
    }


@pytest.fixture(params=list(FAMILIES))
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """One frozen pipeline of every family that can be trained."""
    return frozen(FAMILIES[request.param]())


def added_by_hand(backbone: Backbone, placeholder: Placeholder) -> Backbone:
    """A copy of the pipeline with the words written into its tables and tokenizers."""
    pipe = copy.deepcopy(backbone.pipe)
    ours = backbone_of(pipe)
    for encoder in ours.text_encoders:
        if placeholder.token not in encoder.tokenizer.get_vocab():  # both may share a tokenizer
            encoder.tokenizer.add_tokens(list(placeholder.words))
        encoder.model.resize_token_embeddings(len(encoder.tokenizer), mean_resizing=False)
        start = encoder.tokenizer.convert_tokens_to_ids(placeholder.token)
        rows = placeholder.rows[encoder.key].detach()
        encoder.table[start : start + len(rows)] = rows.to(encoder.table.dtype)
    return ours


@pytest.mark.parametrize("vectors", [1, 3])
def test_lookup_equals_rows_in_the_table(backbone: Backbone, vectors: int) -> None:
    placeholder = Placeholder(backbone, TOKEN, noise_rows(backbone, vectors))
    prompts = [f"a {TOKEN} b", f"{TOKEN} or {TOKEN}", "no word"]
    written = added_by_hand(backbone, placeholder)
    ours = placeholder.encode(prompts)
    if type(backbone.pipe).__name__ == "StableDiffusion3Pipeline":  # writes nothing out itself
        names = " ".join(placeholder.words)
        assert same(ours, written.encode([prompt.replace(TOKEN, names) for prompt in prompts]))
    else:
        assert same(ours, written.encode(prompts))
    for row in range(2):
        assert not torch.equal(summary(ours)[row], summary(backbone.encode(prompts))[row])
    torch.testing.assert_close(summary(ours)[2], summary(backbone.encode(prompts))[2])


def summary(conditioning: Conditioning) -> torch.Tensor:
    """Everything in a conditioning, ``(B, n)``."""
    parts = [conditioning.embeds.flatten(1), conditioning.pooled]
    return torch.cat([part for part in parts if part is not None], dim=1)


def test_every_vector_counts(backbone: Backbone) -> None:
    rows = noise_rows(backbone, 3)
    prompt = [f"a {TOKEN}"]
    plain = summary(Placeholder(backbone, TOKEN, rows).encode(prompt))
    for key in rows:
        for vector in range(3):
            changed = {name: value.clone() for name, value in rows.items()}
            changed[key][vector] += 1.0
            assert not torch.equal(
                plain, summary(Placeholder(backbone, TOKEN, changed).encode(prompt))
            )


def test_the_pipeline_is_as_before_after_the_block_and_after_an_error(backbone: Backbone) -> None:
    pipe = backbone.pipe
    parts, config = dict(pipe.components), copy.deepcopy(dict(pipe.config))
    classes = [type(encoder.model.get_input_embeddings()) for encoder in backbone.text_encoders]
    words = [encoder.tokenizer.get_vocab() for encoder in backbone.text_encoders]
    states = [copy.deepcopy(encoder.model.state_dict()) for encoder in backbone.text_encoders]
    placeholder = Placeholder(backbone, TOKEN, noise_rows(backbone, 2))
    with pytest.raises(KeyError), placeholder.known():
        assert TOKEN in backbone.text_encoders[-1].tokenizer.get_vocab()
        raise KeyError
    placeholder.encode([TOKEN])
    assert all(pipe.components[name] is part for name, part in parts.items())
    assert dict(pipe.config) == config
    for encoder, kind, vocabulary, state in zip(
        backbone.text_encoders, classes, words, states, strict=True
    ):
        assert type(encoder.model.get_input_embeddings()) is kind
        assert encoder.tokenizer.get_vocab() == vocabulary
        assert all(torch.equal(encoder.model.state_dict()[name], state[name]) for name in state)


def test_gradients_reach_the_rows_in_use_alone(backbone: Backbone) -> None:
    placeholder = Placeholder(backbone, TOKEN, noise_rows(backbone, 2))
    summary(placeholder.encode(["no word"])).sum().backward()
    for rows in placeholder.rows.values():
        assert rows.grad is not None and not rows.grad.any()
    summary(placeholder.encode([f"a {TOKEN}"])).square().sum().backward()
    for rows in placeholder.rows.values():
        assert rows.grad is not None and rows.grad.any(1).all()
    assert all(encoder.table.grad is None for encoder in backbone.text_encoders)


def test_the_gradient_of_a_loss_is_its_slope(backbone: Backbone) -> None:
    for part in backbone.pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.double()
    rows = {key: value.double() for key, value in noise_rows(backbone, 2).items()}
    placeholder = Placeholder(backbone, TOKEN, rows)
    torch.manual_seed(1)
    noisy = torch.randn(2, backbone.latent_channels, 8, 8, dtype=torch.float64)
    target, times = torch.randn_like(noisy), torch.tensor([300, 700])

    def loss() -> torch.Tensor:
        conditioning = placeholder.encode([f"a {TOKEN}", f"{TOKEN} b"])
        return (backbone.predict(noisy, times, conditioning) - target).square().mean()

    loss().backward()
    for parameter in placeholder.rows.values():
        direction = torch.randn_like(parameter)
        assert parameter.grad is not None
        slope = (parameter.grad * direction).sum()
        with torch.no_grad():
            step = 1e-6
            parameter.add_(direction, alpha=step)
            above = loss()
            parameter.sub_(direction, alpha=2 * step)
            below = loss()
            parameter.add_(direction, alpha=step)
        rotates_in_float32 = "Flux" in type(backbone.pipe).__name__
        tolerance = 3e-5 if rotates_in_float32 else 1e-6
        torch.testing.assert_close((above - below) / (2 * step), slope, rtol=tolerance, atol=0)


def test_rows_are_rounded_to_the_dtype_of_the_table(sd: Any) -> None:
    backbone = frozen(sd)
    sd.text_encoder.to(torch.bfloat16)
    placeholder = Placeholder(backbone, TOKEN, noise_rows(backbone, 1))
    assert placeholder.rows["clip_l"].dtype == torch.float32
    written = added_by_hand(backbone, placeholder)
    assert same(placeholder.encode([TOKEN]), written.encode([TOKEN]))


def test_words_next_to_words_that_were_loaded_before(sd: Any) -> None:
    sd.load_textual_inversion({"<owl>": torch.full((2, tiny.WIDTH), 0.5)})
    backbone = frozen(sd)
    placeholder = Placeholder(backbone, TOKEN, noise_rows(backbone, 1))
    prompts = [f"<owl> and {TOKEN}"]
    assert same(placeholder.encode(prompts), added_by_hand(backbone, placeholder).encode(prompts))


def test_words_next_to_words_that_load_gave(sdxl: Any) -> None:
    backbone = frozen(sdxl)
    owl = Artifact("textual-inversion", noise_rows(backbone, 2), {"token": "<owl>"})
    load(sdxl, owl)
    placeholder = Placeholder(backbone, TOKEN, noise_rows(backbone, 3))
    rows = {key: value.detach() for key, value in placeholder.rows.items()}
    prompts = [f"<owl> {TOKEN}", f"{TOKEN} or <owl>"]
    ours = placeholder.encode(prompts)
    load(sdxl, Artifact("textual-inversion", rows, {"token": TOKEN}))
    assert same(ours, backbone.encode(prompts))


def test_the_pooled_embedding_is_read_at_the_end_of_the_text(sdxl: Any) -> None:
    backbone = frozen(sdxl)
    placeholder = Placeholder(backbone, TOKEN, noise_rows(backbone, 1))
    expected = placeholder.encode([f"{TOKEN} b"])
    inner = sdxl.text_encoder_2.text_model
    inner.eos_token_id = 2  # of the configs that read at the largest id
    assert same(placeholder.encode([f"{TOKEN} b"]), expected)
    assert inner.eos_token_id == 2
    astray = added_by_hand(backbone, placeholder)
    assert not same(astray.encode([f"{TOKEN} b"]), expected)
    with pooled_at_end(astray.text_encoders[1]):
        assert same(astray.encode([f"{TOKEN} b"]), expected)


@pytest.mark.parametrize(
    ("token", "error", "message"),
    [
        ("", ValueError, "one word without spaces such as '<my-cat>', found ''"),
        ("<my cat>", ValueError, "one word without spaces"),
        ("<cat>\n", ValueError, "one word without spaces"),
        ("<Cat>", ValueError, "must be in lower case.*write '<cat>'"),
        (7, TypeError, "token must be text such as '<my-cat>', found 7"),
    ],
)
def test_tokens_that_cannot_be_placeholders(
    token: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_token(token)


def test_a_tokenizer_with_a_word_is_a_copy() -> None:
    tokenizer = tiny.tokenizer()
    size = len(tokenizer)
    wider = with_word(tokenizer, ("<b>", "<b>_1"))
    assert wider.tokenize("x <b> y") == ["x</w>", "<b>", "<b>_1", "y</w>"]
    assert len(tokenizer) == size


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("w", "token 'w' cannot be used: the tokenizer has a token 'w' already"),
        ("<|endoftext|>", "has a token '<|endoftext|>' already"),
        ("e\u0301", "is read as ['\u00e9'] by the tokenizer; choose a word of plain letters"),
    ],
)
def test_words_that_a_tokenizer_cannot_have(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        with_word(tiny.tokenizer(), (name,))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: rows.pop("clip_g"),
        lambda rows: rows.update(clip_g=rows["clip_g"][:1]),
        lambda rows: rows.update(clip_l=rows["clip_l"][:, :5]),
        lambda rows: rows.update(clip_l=rows["clip_l"][:0], clip_g=rows["clip_g"][:0]),
        lambda rows: rows.clear(),
        lambda rows: rows.update(clip_l=rows["clip_l"][0]),
    ],
)
def test_rows_that_do_not_fit(sdxl: Any, spoil: Callable[[Any], Any]) -> None:
    backbone = frozen(sdxl)
    rows = noise_rows(backbone, 2)
    spoil(rows)
    with pytest.raises(ValueError, match="StableDiffusionXLPipeline needs rows"):
        Placeholder(backbone, TOKEN, rows)


def test_rows_of_a_text_go_round(sd: Any) -> None:
    (encoder,) = backbone_of(sd).text_encoders
    ids = sd.tokenizer.convert_tokens_to_ids(["a", "b</w>"])
    assert torch.equal(text_rows(encoder, "ab", 3), encoder.table[[ids[0], ids[1], ids[0]]])
    assert torch.equal(text_rows(encoder, "ab", 1), encoder.table[[ids[0]]])
    with pytest.raises(ValueError, match="initializer must be a word or several, found ' '"):
        text_rows(encoder, " ", 1)


def test_random_rows_have_the_spread_of_the_table(sd: Any) -> None:
    (encoder,) = backbone_of(sd).text_encoders
    encoder.table.mul_(3.0)
    rows = random_rows(encoder, 400, torch.Generator().manual_seed(0))
    assert rows.shape == (400, tiny.WIDTH)
    torch.testing.assert_close(rows.std(), encoder.table.std(), rtol=0.02, atol=0)
    assert torch.equal(rows, random_rows(encoder, 400, torch.Generator().manual_seed(0)))


def test_norm_rules() -> None:
    rows = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    doubled = rows / rows.std() * 2 * 0.3
    torch.testing.assert_close(std_pull(doubled, 0.3), doubled * 2**-0.1)
    torch.testing.assert_close(std_pull(doubled, doubled.std()), doubled)
    scaled = rescale(rows, 0.4)
    torch.testing.assert_close(scaled.norm(dim=1), torch.full((3,), 0.4))
    torch.testing.assert_close(scaled[1] / scaled[1].norm(), rows[1] / rows[1].norm())


def test_nearest_words_are_those_of_the_smallest_angle(sd: Any) -> None:
    (encoder,) = backbone_of(sd).text_encoders
    ids = sd.tokenizer.convert_tokens_to_ids(["a</w>", "b</w>", "a"])
    a, b, within = encoder.table[ids]
    row = 5 * a / a.norm() + b / b.norm()
    assert nearest_words(encoder, row[None], 2) == [["a", "b"]]
    assert nearest_words(encoder, torch.stack([row, b]), 1) == [["a"], ["b"]]
    assert nearest_words(encoder, (within + 0.1 * b)[None], 1) != [["a"]]
