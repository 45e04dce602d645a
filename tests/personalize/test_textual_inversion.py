"""Textual inversion: what moves, what must not, and where the result loads."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from personalize.core.artifact import Artifact
from personalize.core.backbone import Backbone
from personalize.core.backbones import backbone_of
from personalize.core.images import Item
from personalize.core.loading import load, unload
from personalize.core.method import Batch, Context, Sizes, Training
from personalize.core.settings import DataSettings, TrainSettings
from personalize.core.tokens import Placeholder, text_rows
from personalize.core.trainer import train as train_with
from personalize.textual_inversion import TextualInversion
from tests import tiny, tiny_families
from tests.personalize.core.test_backbone import FAMILIES, same
from tests.personalize.core.test_tokens import frozen, noise_rows

TOKEN = "<fox>"
PROMPTS = ("a {}", "{} b", "my {}")


def context(pipe: Any, prompts: Sequence[str] = PROMPTS) -> Context:
    """What the trainer would start a method from."""
    item = Item("a.png", Path("a.png"), "", (16, 16), tuple(prompts))
    return Context(
        backbone=frozen(pipe),
        items=(item,),
        settings=TrainSettings(),
        data=DataSettings(),
        device=torch.device("cpu"),
        dtype=torch.float32,
        generator=torch.Generator().manual_seed(3),
        mean=lambda value: value,
    )


def batch(backbone: Backbone, step: int = 0, prompts: Sequence[str] = PROMPTS) -> Batch:
    """A batch of noise to predict, with weights and a mask that matter."""
    generator = torch.Generator().manual_seed(step)
    shape = (len(prompts), backbone.latent_channels, 8, 8)
    noisy, target = (torch.randn(shape, generator=generator) for _ in range(2))
    item = Item("a.png", Path("a.png"), "", (16, 16), tuple(prompts))
    sizes = Sizes((40, 30), (3, 2), (16, 16))
    return Batch(
        step=step,
        samples=tuple(range(len(prompts))),
        items=(item,) * len(prompts),
        prompts=tuple(prompts),
        sizes=(sizes,) * len(prompts),
        latents=noisy,
        noise=target,
        timesteps=torch.randint(1, 1000, (len(prompts),), generator=generator),
        noisy=noisy,
        target=target,
        weights=torch.linspace(0.5, 1.5, len(prompts)),
        masks=torch.ones(len(prompts), 1, 8, 8).tril(),
        seed=step,
    )


def train(training: Training, backbone: Backbone, steps: int = 8, decay: float = 0.0) -> None:
    """The trainer's loop in small: two batches to a step of AdamW."""
    optimizer = torch.optim.AdamW(training.parameters.values(), lr=1e-2, weight_decay=decay)
    for step in range(steps):
        for half in range(2):
            (training.loss(batch(backbone, 2 * step + half)).mean() / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
        training.after_step(step + 1)


def weights(pipe: Any) -> dict[str, Tensor]:
    """Copies of everything in the networks of a pipeline."""
    return {
        f"{name}.{key}": value.clone()
        for name, part in pipe.components.items()
        if isinstance(part, nn.Module)
        for key, value in part.state_dict().items()
    }


@pytest.fixture(params=list(FAMILIES))
def pipe(request: pytest.FixtureRequest) -> Any:
    """One pipeline of every family that can be trained."""
    return FAMILIES[request.param]()


@pytest.mark.parametrize(("norm", "decay"), [("none", 0.0), ("std_pull", 0.1), ("rescale", 0.0)])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_only_the_vectors_move(name: str, norm: Any, decay: float) -> None:
    pipe = FAMILIES[name]()
    before, words = weights(pipe), pipe.tokenizer.get_vocab()
    parts, config = dict(pipe.components), copy.deepcopy(dict(pipe.config))
    start = context(pipe)
    training = TextualInversion(TOKEN, "a", num_vectors=2, norm=norm).start(start)
    first = {key: rows.detach().clone() for key, rows in training.parameters.items()}
    train(training, start.backbone, steps=2, decay=decay)
    training.stop()
    after = weights(pipe)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert pipe.tokenizer.get_vocab() == words
    assert all(pipe.components[name] is part for name, part in parts.items())
    assert dict(pipe.config) == config
    for key, rows in training.parameters.items():
        assert (rows != first[key]).any(1).all()
        assert not torch.equal(rows[0], rows[1])


def whole_table(backbone: Backbone, decay: float) -> Tensor:
    """The other way: the whole table is trained, and the old rows are put back after each step."""
    (encoder,) = backbone.text_encoders
    rows = text_rows(encoder, "ab", 2)
    encoder.tokenizer.add_tokens([TOKEN, f"{TOKEN}_1"])
    encoder.model.resize_token_embeddings(len(encoder.tokenizer), mean_resizing=False)
    table = encoder.model.get_input_embeddings().weight
    with torch.no_grad():
        table[-2:] = rows
    old = table[:-2].detach().clone()
    optimizer = torch.optim.AdamW([table.requires_grad_()], lr=1e-2, weight_decay=decay)
    for step in range(8):
        for half in range(2):
            part = batch(backbone, 2 * step + half)
            conditioning = backbone.encode([text.replace("{}", TOKEN) for text in part.prompts])
            prediction = backbone.predict(part.noisy, part.timesteps, conditioning, part.sizes)
            (part.error(prediction).mean() / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            table[:-2] = old
    return table[-2:].detach()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_vectors_are_those_of_training_the_whole_table(sd: Any, decay: float) -> None:
    other = backbone_of(copy.deepcopy(sd))
    settings = TextualInversion(TOKEN, "ab", num_vectors=2)
    start = context(sd)
    training = settings.start(start)
    train(training, start.backbone, decay=decay)
    frozen(other.pipe)
    expected = whole_table(other, decay)
    torch.testing.assert_close(training.parameters["clip_l"].detach(), expected)


def test_the_loss_is_that_of_the_equation(pipe: Any) -> None:
    start = context(pipe)
    training = TextualInversion(TOKEN, "ab", num_vectors=2, class_word="fox").start(start)
    backbone, samples = start.backbone, batch(start.backbone)
    loss = training.loss(samples)
    placeholder = Placeholder(backbone, TOKEN, training.parameters)
    for number, prompt in enumerate(samples.prompts):
        conditioning = placeholder.encode([prompt.replace("{}", f"{TOKEN} fox")])
        one = slice(number, number + 1)
        prediction = backbone.predict(
            samples.noisy[one], samples.timesteps[one], conditioning, samples.sizes[one]
        )
        error = (prediction - samples.target[one]).square()[0]
        expected = samples.weights[number] * error[:, torch.ones(8, 8).tril() > 0].mean()
        torch.testing.assert_close(loss[number], expected)
    assert loss.dtype == torch.float32


def test_clip_skip_is_used(sd: Any) -> None:
    start = context(sd)
    samples = batch(start.backbone)
    plain = TextualInversion(TOKEN, "a").start(start).loss(samples)
    skipped = TextualInversion(TOKEN, "a", clip_skip=1).start(start).loss(samples)
    nothing = TextualInversion(TOKEN, "a", clip_skip=0).start(start).loss(samples)
    assert not torch.equal(plain, skipped)
    assert torch.equal(plain, nothing)


def test_distance_from_the_start_is_in_the_loss(sdxl: Any) -> None:
    start = context(sdxl)
    samples = batch(start.backbone)
    training = TextualInversion(TOKEN, "a", num_vectors=2, l2_to_init=0.5).start(start)
    plain = TextualInversion(TOKEN, "a", num_vectors=2).start(start)
    assert torch.equal(training.loss(samples), plain.loss(samples))
    for one in (training, plain):
        with torch.no_grad():
            one.parameters["clip_l"][0] += 1.0
            one.parameters["clip_g"][1, 0] += 2.0
    distance = (tiny.WIDTH + 4.0 + 0.0 + 0.0) / 4
    torch.testing.assert_close(training.loss(samples), plain.loss(samples) + 0.5 * distance)


def test_at_the_start_the_word_is_its_initializer(pipe: Any) -> None:
    start = context(pipe)
    training = TextualInversion(TOKEN, "a").start(start)
    placeholder = Placeholder(start.backbone, TOKEN, training.parameters)
    ours, plain = placeholder.encode([f"my {TOKEN}"]), start.backbone.encode(["my a"])
    if "Flux" in type(pipe).__name__:  # its T5 reads the word as letters
        ours = replace(ours, embeds=plain.embeds)
    assert same(ours, plain)


def test_at_the_start_pictures_are_those_of_the_initializer(sd: Any) -> None:
    training = TextualInversion(TOKEN, "a").start(context(sd))
    with Placeholder(backbone_of(sd), TOKEN, training.parameters).known():
        ours = drawn(sd, f"my {TOKEN}")
    assert torch.equal(ours, drawn(sd, "my a"))
    assert not torch.equal(ours, drawn(sd, "my b"))


def drawn(pipe: Any, prompt: str) -> Tensor:
    """A picture of a prompt, as latents."""
    return tiny.sample(pipe, prompt=[prompt], steps=2)


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("name", ["sd", "sdxl", "flux"])
def test_the_file_loads_in_plain_diffusers(name: str, vectors: int, tmp_path: Path) -> None:
    pipe = FAMILIES[name]()
    if name == "sdxl":
        pipe.tokenizer_2 = copy.deepcopy(pipe.tokenizer)
    fresh = copy.deepcopy(pipe)
    start = context(pipe)
    training = TextualInversion(TOKEN, num_vectors=vectors).start(start)
    train(training, start.backbone, steps=2)
    placeholder = Placeholder(start.backbone, TOKEN, training.parameters)
    prompts = [f"a {TOKEN}", f"{TOKEN} b {TOKEN}"]
    training.artifact().save(tmp_path)
    fresh.load_textual_inversion(str(tmp_path / "learned_embeds.safetensors"))
    if name == "sdxl":
        fresh.load_textual_inversion(
            str(tmp_path / "learned_embeds_2.safetensors"),
            text_encoder=fresh.text_encoder_2,
            tokenizer=fresh.tokenizer_2,
        )
    with torch.no_grad():
        assert same(placeholder.encode(prompts), backbone_of(fresh).encode(prompts))


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_loaded_it_is_the_word_that_was_trained(name: str, vectors: int) -> None:
    start = context(FAMILIES[name]())
    backbone, prompts = start.backbone, [f"a {TOKEN}", f"{TOKEN} b {TOKEN}", "no word"]
    training = TextualInversion(TOKEN, num_vectors=vectors).start(start)
    trained = Placeholder(backbone, TOKEN, training.parameters).encode(prompts)
    load(backbone.pipe, training.artifact())
    with torch.no_grad():
        assert same(trained, backbone.encode(prompts))
    unload(backbone.pipe)
    with torch.no_grad():
        assert not same(trained, backbone.encode(prompts))


def test_the_vectors_alone_can_lower_the_loss(sd: Any) -> None:
    tiny_families.awaken(sd.unet)
    start = context(sd)
    backbone = start.backbone
    samples = batch(backbone, prompts=PROMPTS[:1])
    goal = Placeholder(backbone, "<goal>", noise_rows(backbone, 1))
    conditioning = goal.encode([text.replace("{}", "<goal>") for text in samples.prompts])
    with torch.no_grad():
        samples.target.copy_(backbone.predict(samples.noisy, samples.timesteps, conditioning))
    training = TextualInversion(TOKEN, "a").start(start)
    optimizer = torch.optim.AdamW(training.parameters.values(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = training.loss(samples).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_norm_rules_act_after_each_step(sdxl: Any) -> None:
    start = context(sdxl)
    encoders = {encoder.key: encoder for encoder in start.backbone.text_encoders}
    encoders["clip_g"].table.mul_(2.0)
    norm: Any
    for norm in ("none", "std_pull", "rescale"):
        training = TextualInversion(TOKEN, "ab", num_vectors=2, norm=norm).start(start)
        rows = {key: value.detach().clone() * 3 for key, value in training.parameters.items()}
        for key, value in training.parameters.items():
            value.data.mul_(3.0)
            table = encoders[key].table
            expected = {
                "none": rows[key],
                "std_pull": rows[key] * (table.std() / rows[key].std()) ** 0.1,
                "rescale": rows[key] / rows[key].norm(dim=1)[:, None] * table.norm(dim=1).mean(),
            }[norm]
            rows[key] = expected
        training.after_step(1)
        for key, value in training.parameters.items():
            torch.testing.assert_close(value.detach(), rows[key])


def test_the_log_has_lengths_and_angles(sdxl: Any) -> None:
    training = TextualInversion(TOKEN, "ab", num_vectors=2).start(context(sdxl))
    with torch.no_grad():
        training.parameters["clip_l"][1] *= -2
    log = training.after_step(1)
    rows = training.parameters["clip_l"].detach()
    assert log["norm/clip_l/1"] == pytest.approx(float(rows[1].norm()))
    assert log["cosine_to_start/clip_l/0"] == pytest.approx(1.0)
    assert log["cosine_to_start/clip_l/1"] == pytest.approx(-1.0)
    assert len(log) == 8


def test_the_artifact_names_the_word_and_the_nearest_words(sdxl: Any) -> None:
    training = TextualInversion(TOKEN, "a b", num_vectors=2, clip_skip=1).start(context(sdxl))
    artifact = training.artifact()
    assert {key: tuple(value.shape) for key, value in artifact.tensors.items()} == {
        "clip_l": (2, tiny.WIDTH),
        "clip_g": (2, tiny.WIDTH),
    }
    assert all(value.dtype == torch.float32 for value in artifact.tensors.values())
    assert not any(value.requires_grad for value in artifact.tensors.values())
    assert artifact.metadata["token"] == TOKEN
    near = json.loads(artifact.metadata["nearest_words"])
    assert [len(words) for words in near["clip_g"]] == [3, 3]
    assert [words[0] for words in near["clip_l"]] == ["a", "b"]
    assert artifact.metadata["clip_skip"] == "1"


def test_the_start_is_kept_over_a_resume(sd: Any) -> None:
    settings = TextualInversion(TOKEN, num_vectors=2)
    first, second = settings.start(context(sd)), settings.start(context(sd))
    assert torch.equal(first.parameters["clip_l"], second.parameters["clip_l"])
    state = {name: value + 1.0 for name, value in first.state().items()}
    second.restore(state)
    assert second.after_step(1) != first.after_step(1)
    assert all(torch.equal(second.state()[name], value) for name, value in state.items())


def test_without_an_initializer_the_vectors_are_noise(sdxl: Any) -> None:
    one, other = context(sdxl), context(sdxl)
    other.generator.manual_seed(4)
    rows = TextualInversion(TOKEN, num_vectors=2).start(one).parameters
    assert not torch.equal(rows["clip_l"], rows["clip_g"])
    assert not torch.equal(
        rows["clip_l"], TextualInversion(TOKEN, num_vectors=2).start(other).parameters["clip_l"]
    )


@pytest.mark.parametrize("text", ["ab", None])
def test_the_vectors_are_in_float32_whatever_the_model(sd: Any, text: str | None) -> None:
    start = context(sd)
    sd.text_encoder.to(torch.bfloat16)
    training = TextualInversion(TOKEN, text, num_vectors=2).start(start)
    assert training.parameters["clip_l"].dtype == torch.float32
    loss = training.loss(batch(start.backbone))
    loss.mean().backward()
    gradient = training.parameters["clip_l"].grad
    assert gradient is not None
    assert loss.dtype == gradient.dtype == torch.float32


def test_training_goes_on_from_a_file(sdxl: Any, tmp_path: Path) -> None:
    training = TextualInversion("<owl>", num_vectors=2).start(context(sdxl))
    training.artifact().save(tmp_path)
    again = TextualInversion(TOKEN, initializer_file=tmp_path).start(context(sdxl))
    for key, rows in training.parameters.items():
        assert torch.equal(rows, again.parameters[key])
    with pytest.raises(ValueError, match="has 2 vectors, but num_vectors is 3"):
        TextualInversion(TOKEN, initializer_file=tmp_path, num_vectors=3).start(context(sdxl))
    with pytest.raises(ValueError, match="clip_g"):
        TextualInversion(TOKEN, initializer_file=tmp_path).start(context(tiny.sd()))


def photos(folder: Path) -> Path:
    """A folder of two photos of noise."""
    folder.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a {} b")
    return folder


def test_the_trainer_leaves_no_trace_and_resumes_to_the_bit(sdxl: Any, tmp_path: Path) -> None:
    pipe, folder = sdxl, photos(tmp_path / "photos")
    before, words, config = weights(pipe), pipe.tokenizer.get_vocab(), dict(pipe.config)
    method = TextualInversion(TOKEN, num_vectors=2, norm="std_pull", l2_to_init=0.1)
    short = TrainSettings(max_train_steps=2, gradient_accumulation_steps=2)
    data = DataSettings(resolution=16)
    train_with(pipe, method, folder, tmp_path / "a", short, data)
    long = short.model_copy(update={"max_train_steps": 4})
    on = long.model_copy(update={"resume_from_checkpoint": "latest"})
    train_with(pipe, method, folder, tmp_path / "a", on, data)
    result = train_with(pipe, method, folder, tmp_path / "b", long, data)
    assert all(torch.equal(value, before[key]) for key, value in weights(pipe).items())
    assert pipe.tokenizer.get_vocab() == words
    assert dict(pipe.config) == config
    again = Artifact.load(tmp_path / "a")
    for key, rows in result.tensors.items():
        assert torch.equal(rows, again.tensors[key])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TextualInversion("<Fox>"), "must be in lower case"),
        (lambda: TextualInversion(TOKEN, "a", "b.safetensors"), "cannot both be given, found 'a'"),
        (lambda: TextualInversion(TOKEN, num_vectors=0), "must be a whole number from 1 up"),
        (lambda: TextualInversion(TOKEN, norm="big"), "'std_pull' or 'rescale', found 'big'"),  # type: ignore[arg-type]
        (lambda: TextualInversion(TOKEN, l2_to_init=-1), "l2_to_init must be a finite number"),
        (lambda: TextualInversion(TOKEN, l2_to_init=float("nan")), "from 0 up, found nan"),
    ],
)
def test_bad_settings(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("settings", "prompts", "message"),
    [
        (TextualInversion("w"), PROMPTS, "token 'w' cannot be used"),
        (TextualInversion(TOKEN), ("a", "b {}"), "the prompt of a.png must hold {} or '<fox>'"),
        (TextualInversion(TOKEN), ("abcdefghijklmno {}",), "too long for 1 vectors: 1 are cut off"),
        (
            TextualInversion(TOKEN, num_vectors=14),
            PROMPTS,
            "too long for 14 vectors: 1 are cut off",
        ),
        (TextualInversion(TOKEN, num_vectors=20), PROMPTS, "has 20 vectors, but a prompt has room"),
        (TextualInversion(TOKEN, "  "), PROMPTS, "initializer must be a word or several"),
    ],
)
def test_what_does_not_fit_the_pipeline(
    sd: Any, settings: TextualInversion, prompts: Sequence[str], message: str
) -> None:
    before = weights(sd)
    with pytest.raises(ValueError, match=message):
        settings.start(context(sd, prompts))
    assert all(torch.equal(value, before[name]) for name, value in weights(sd).items())


def test_captions_may_hold_the_word_itself(sd: Any) -> None:
    TextualInversion(TOKEN).start(context(sd, (f"a {TOKEN}",)))
