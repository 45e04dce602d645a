"""Textual inversions on pipelines: as in diffusers but without its traps, and off again whole."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from guidance import CFG, guide
from personalize import Artifact, load, loaded, unload
from personalize.core import kinds, table, vocabulary
from personalize.core.kinds import Kind
from tests import tiny, tiny_families
from tests.personalize.core.malformed import CORPUS, WIDTH, rows

CATS = ("<cat>", "<cat>_1", "<cat>_2")


def build(family: str) -> Any:
    """A tiny pipeline whose text encoders have tokenizers of their own, as real ones have."""
    pipe = tiny_families.FAMILIES["flux"]() if family == "flux" else tiny.FAMILIES[family]()
    if family in ("sdxl", "sd3"):
        pipe.register_modules(tokenizer_2=tiny.tokenizer())
    return pipe


@pytest.fixture(params=["sd", "sdxl", "sd3", "flux"])
def family(request: pytest.FixtureRequest) -> str:
    """Every family that takes words."""
    return str(request.param)


@pytest.fixture
def pipe(family: str) -> Any:
    """One pipeline of every family in turn."""
    return build(family)


def encoders(pipe: Any) -> list[tuple[Any, Any]]:
    """Tokenizer and model of each CLIP text encoder."""
    pairs = [(pipe.tokenizer, pipe.text_encoder)]
    if "CLIP" in type(getattr(pipe, "text_encoder_2", None)).__name__:
        pairs.append((pipe.tokenizer_2, pipe.text_encoder_2))
    return pairs


def inversion(pipe: Any, token: str = "<cat>", count: int = 3, seed: int = 0) -> Artifact:
    """A word for a pipeline."""
    keys = ("clip_l", "clip_g")[: len(encoders(pipe))]
    tensors = {key: rows(count, WIDTH, seed + number) for number, key in enumerate(keys)}
    return Artifact("textual-inversion", tensors, {"token": token})


def encoded(tokenizer: Any, encoder: Any, prompt: str) -> Tensor:
    """Hidden states and pooled embedding of a prompt, side by side."""
    ids = tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        out = encoder(ids)
    pooled = out.pooler_output if hasattr(out, "pooler_output") else out.text_embeds
    return torch.cat([out.last_hidden_state[0], pooled])


def everything(pipe: Any, folder: Path) -> dict[str, Any]:
    """What could have changed: files, ids, weights, configs, classes and flags."""
    found: dict[str, Any] = {}
    for number, (tokenizer, encoder) in enumerate(encoders(pipe)):
        place, ids = folder / str(number), tokenizer("a <cat> <cat>_1 fox").input_ids
        tokenizer.save_pretrained(place)
        words = encoder.get_input_embeddings()
        found |= {
            **{f"{number} {path.name}": path.read_bytes() for path in place.iterdir()},
            **{f"{number} {name}": w.numpy().tobytes() for name, w in encoder.state_dict().items()},
            f"{number} vocabulary": tokenizer.get_vocab(),
            f"{number} backend": id(tokenizer._tokenizer),
            f"{number} attributes": {**vars(tokenizer), "_tokenizer": None},
            f"{number} ids": ids,
            f"{number} class": type(tokenizer),
            f"{number} config": encoder.config.to_dict(),
            f"{number} table": (id(words), id(words.weight), words.num_embeddings),
            f"{number} flags": [value.requires_grad for value in encoder.parameters()],
            f"{number} ends": [vars(part).get("eos_token_id") for part in encoder.modules()],
        }
    return found


@contextmanager
def unchanged(pipe: Any, folder: Path) -> Iterator[None]:
    """Assert that a pipeline is afterwards what it was, to the bit."""
    before = everything(pipe, folder / "before")
    yield
    after = everything(pipe, folder / "after")
    assert [name for name in before | after if before.get(name) != after.get(name)] == []


# On and off


@pytest.mark.parametrize("count", [1, 3])
def test_a_word_is_what_a_longer_vocabulary_makes_of_it(family: str, count: int) -> None:
    pipe, reference = build(family), build(family)
    artifact = inversion(pipe, count=count)
    found = load(pipe, artifact)
    assert (found.name, found.kind, found.words) == ("<cat>", "textual-inversion", CATS[:count])
    for pair, (tokenizer, encoder), value in zip(
        encoders(pipe), encoders(reference), artifact.tensors.values(), strict=True
    ):
        tokenizer.add_tokens(list(found.words))
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        encoder.get_input_embeddings().weight.data[-count:] = value
        expected = encoded(tokenizer, encoder, f"a {' '.join(found.words)} fox")
        assert torch.equal(encoded(*pair, "a <cat> fox"), expected)
        assert pair[0].get_vocab() == tokenizer.get_vocab()
        assert pair[1].config.vocab_size == encoder.config.vocab_size


def test_a_file_acts_as_in_diffusers(tmp_path: Path) -> None:
    ours, theirs = tiny.sd(), tiny.sd()
    inversion(ours).save(tmp_path)
    load(ours, tmp_path)
    theirs.load_textual_inversion(str(tmp_path))
    for prompt in ("a <cat> fox", "red fox"):
        assert torch.equal(tiny.sample(ours, prompt=[prompt]), tiny.sample(theirs, prompt=[prompt]))


def test_unloading_restores_every_bit(pipe: Any, tmp_path: Path) -> None:
    inversion(pipe).save(tmp_path / "file")
    with unchanged(pipe, tmp_path):
        load(pipe, tmp_path / "file")
        hidden = [encoded(*pair, "a <cat>") for pair in encoders(pipe)]
        assert list(loaded(pipe)) == ["<cat>"]
        unload(pipe)
        assert loaded(pipe) == {}
    assert not any(
        torch.equal(encoded(*pair, "a <cat>"), old)
        for pair, old in zip(encoders(pipe), hidden, strict=True)
    )


def test_several_words_come_off_in_any_order(pipe: Any, tmp_path: Path) -> None:
    words = {"<cat>": 3, "<dog>": 1, "<owl>": 2}
    with unchanged(pipe, tmp_path):
        for seed, (word, count) in enumerate(words.items()):
            load(pipe, inversion(pipe, word, count, 10 * seed))
        alone = [encoded(*pair, "a <owl> <cat> fox") for pair in encoders(pipe)]
        assert list(loaded(pipe)) == list(words)
        unload(pipe, "<dog>")
        assert [encoded(*pair, "a <owl> <cat> fox").tolist() for pair in encoders(pipe)] == [
            old.tolist() for old in alone
        ]
        assert all("<dog>" not in tokenizer.get_vocab() for tokenizer, _ in encoders(pipe))
        unload(pipe, "<CAT>")
        load(pipe, inversion(pipe, "<cat>", 3, 0))
        assert [encoded(*pair, "a <owl> <cat> fox").tolist() for pair in encoders(pipe)] == [
            old.tolist() for old in alone
        ]
        unload(pipe)


def test_the_token_can_be_chosen(pipe: Any, tmp_path: Path) -> None:
    inversion(pipe).save(tmp_path)
    assert load(pipe, tmp_path, token="<dog>").name == "<dog>"
    assert load(pipe, tmp_path, token="<OWL>").name == "<owl>"
    assert load(pipe, inversion(pipe), token="<fox>").name == "<fox>"
    assert list(loaded(pipe)) == ["<dog>", "<owl>", "<fox>"]


def test_every_dialect_acts_alike(tmp_path: Path) -> None:
    found = []
    for names in (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")):
        pipe = build("sdxl")
        values = inversion(pipe).tensors.values()
        save_file(dict(zip(names, values, strict=True)), tmp_path / "owl.safetensors")
        assert load(pipe, tmp_path / "owl.safetensors").name == "owl"
        found.append([encoded(*pair, "an owl").tolist() for pair in encoders(pipe)])
    assert found[0] == found[1]


def test_a_refiner_takes_its_half_of_a_file(tmp_path: Path) -> None:
    whole = build("sdxl")
    artifact = inversion(whole)
    refiner = build("sdxl")
    refiner.text_encoder = refiner.tokenizer = None
    load(whole, artifact)
    load(refiner, artifact)
    expected = encoded(whole.tokenizer_2, whole.text_encoder_2, "a <cat>")
    assert torch.equal(encoded(refiner.tokenizer_2, refiner.text_encoder_2, "a <cat>"), expected)
    unload(refiner)
    load(refiner, Artifact("textual-inversion", {"clip_l": artifact.tensors["clip_g"]}), "<cat>")
    assert torch.equal(encoded(refiner.tokenizer_2, refiner.text_encoder_2, "a <cat>"), expected)


def test_encoders_may_share_a_tokenizer(sdxl: Any) -> None:
    assert sdxl.tokenizer is sdxl.tokenizer_2
    before = sdxl.tokenizer.get_vocab()
    load(sdxl, inversion(sdxl))
    assert len(sdxl.tokenizer) == len(before) + 3
    unload(sdxl)
    assert sdxl.tokenizer.get_vocab() == before


def test_a_table_may_be_longer_than_the_vocabulary(sd: Any, tmp_path: Path) -> None:
    sd.text_encoder.resize_token_embeddings(len(sd.tokenizer) + 2, mean_resizing=False)
    with unchanged(sd, tmp_path):
        load(sd, inversion(sd, "<cat>", 3))
        table_now = sd.text_encoder.get_input_embeddings().weight
        assert torch.equal(table_now[len(sd.tokenizer) - 3 :], rows(3))
        unload(sd)


def test_a_pipeline_may_move_meanwhile(sd: Any) -> None:
    weight = sd.text_encoder.get_input_embeddings().weight
    expected = weight.detach().half()
    load(sd, inversion(sd))
    sd.text_encoder.half()
    unload(sd)
    assert sd.text_encoder.get_input_embeddings().weight is weight
    assert torch.equal(weight, expected)


def test_pipelines_of_the_same_parts_share_what_is_loaded(sd: Any, tmp_path: Path) -> None:
    other = tiny.relative("StableDiffusionImg2ImgPipeline", sd)
    with unchanged(sd, tmp_path):
        load(sd, inversion(sd))
        assert list(loaded(other)) == ["<cat>"]
        del sd
        load(other, inversion(other, "<dog>"))
        unload(other)
    assert loaded(other) == {}


def test_nothing_keeps_a_pipeline_alive(pipe: Any) -> None:
    load(pipe, inversion(pipe))
    parts = [weakref.ref(part) for pair in encoders(pipe) for part in pair]
    object.__setattr__(pipe, "text_encoder_2", None)
    pipe.__dict__.clear()
    gc.collect()
    assert [part() for part in parts] == [None] * len(parts)


def test_the_global_generator_is_not_drawn_from(pipe: Any) -> None:
    state = torch.random.get_rng_state()
    load(pipe, inversion(pipe))
    unload(pipe)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_word_acts_inside_of_guide(sd: Any) -> None:
    load(sd, inversion(sd))
    plain = tiny.sample(sd, prompt=["a <cat>"])
    unload(sd)
    with guide(sd, CFG(5.0)):
        load(sd, inversion(sd))
        inside = tiny.sample(sd, prompt=["a <cat>"])
    assert torch.equal(inside, plain)
    with guide(sd, CFG(5.0)):
        unload(sd)
        without = tiny.sample(sd, prompt=["a <cat>"])
    assert torch.equal(without, tiny.sample(sd, prompt=["a <cat>"]))
    assert not torch.equal(without, plain)


def test_saved_pipelines_keep_the_word(sd: Any, tmp_path: Path) -> None:
    load(sd, inversion(sd, count=1))
    sd.save_pretrained(tmp_path)
    again = type(sd).from_pretrained(tmp_path)
    assert type(again.tokenizer) is type(tiny.tokenizer())
    expected = encoded(sd.tokenizer, sd.text_encoder, "a <cat>")
    assert torch.equal(encoded(again.tokenizer, again.text_encoder, "a <cat>"), expected)


# The traps


READ = [
    ("a <cat>", ["a</w>", *CATS]),
    ("<CAT>, <Cat>", [*CATS, ",</w>", *CATS]),
    ("<cat> <cat>_1 <cat>_2", [*CATS]),
    ("<cat><cat>_1<cat>_2 a", [*CATS, "a</w>"]),
    ("<cat> <cat>_1", [*CATS, "<cat>_1"]),
    ("<cat>_2 <cat>", ["<cat>_2", *CATS]),
    ("<cat> <cat>", [*CATS, *CATS]),
    ("x<cat>y", ["x</w>", *CATS, "y</w>"]),
]


def test_words_are_written_out_once_in_any_case(pipe: Any) -> None:
    load(pipe, inversion(pipe))
    for tokenizer, _ in encoders(pipe):
        for prompt, tokens in READ:
            assert tokenizer.tokenize(prompt) == tokens
            ids = tokenizer.convert_tokens_to_ids(tokens)
            assert tokenizer(prompt).input_ids[1:-1] == ids
            assert tokenizer([prompt, "a"]).input_ids[0][1:-1] == ids
            assert tokenizer.encode(prompt, add_special_tokens=False) == ids
            if hasattr(pipe, "maybe_convert_prompt"):
                assert pipe.maybe_convert_prompt(prompt, tokenizer) == prompt


def test_pipelines_hear_all_vectors(family: str) -> None:
    pipe = build(family)
    load(pipe, inversion(pipe))
    call: dict[str, Any] = {"num_inference_steps": 1, "output_type": "latent"}
    if family == "flux":  # its T5 spells every word
        call |= {"prompt_2": "a", "max_sequence_length": 16}
    made = [
        pipe(prompt, height=16, width=16, generator=torch.Generator().manual_seed(0), **call).images
        for prompt in ("a <cat>", "a <CAT>", "a <cat> <cat>_1 <cat>_2", "a <cat>_2")
    ]
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[3])


def test_a_word_of_letters_is_not_found_in_other_words(sd: Any) -> None:
    load(sd, inversion(sd, "sks", 2))
    plain = tiny.tokenizer()
    for prompt in ("asks", "sksb", "sks_", "sks1"):
        assert sd.tokenizer.tokenize(prompt) == plain.tokenize(prompt)
    assert sd.tokenizer.tokenize("a Sks, sks") == ["a</w>", "sks", "sks_1", ",</w>", "sks", "sks_1"]
    assert sd.tokenizer.tokenize("sks_1") == ["sks_1"]


def test_words_that_begin_alike_are_told_apart(sd: Any) -> None:
    for word, count in (("<a", 2), ("<a>", 1), ("<a>b", 2)):
        load(sd, inversion(sd, word, count))
    assert sd.tokenizer.tokenize("<a>b <a> <a") == ["<a>b", "<a>b_1", "<a>", "<a", "<a_1"]


def test_files_with_capitals_are_loaded_in_lower_case(sd: Any) -> None:
    assert load(sd, inversion(sd, "<Cat>")).words == CATS
    with pytest.raises(ValueError, match="has a token '<cat>' already"):
        load(sd, inversion(sd, "<cAT>"))
    unload(sd, "<Cat>")


def test_a_name_left_over_by_diffusers_is_refused(sd: Any, tmp_path: Path) -> None:
    sd.load_textual_inversion(rows(3), token="<cat>")
    sd.unload_textual_inversion("<cat>")
    with unchanged(sd, tmp_path), pytest.raises(ValueError, match=r"a token '<cat>_1', left over"):
        load(sd, inversion(sd, count=1))
    sd.unload_textual_inversion(["<cat>_1", "<cat>_2"])
    assert load(sd, inversion(sd)).words == CATS


def test_words_of_diffusers_stay_beside_ours(sd: Any, tmp_path: Path) -> None:
    sd.load_textual_inversion(rows(2, seed=5), token="<dog>")
    with unchanged(sd, tmp_path):
        load(sd, inversion(sd))
        words = sd.maybe_convert_prompt("a <cat> <dog>", sd.tokenizer)
        assert sd.tokenizer.tokenize(words) == ["a</w>", *CATS, "<dog>", "<dog>_1"]
        unload(sd)


def test_a_pipeline_changed_meanwhile_is_not_guessed_at(sd: Any) -> None:
    load(sd, inversion(sd))
    sd.load_textual_inversion(rows(1), token="<dog>")
    for call in (lambda: unload(sd), lambda: load(sd, inversion(sd, "<owl>"))):
        with pytest.raises(ValueError, match="words of text_encoder were changed by other means"):
            call()
    sd.unload_textual_inversion()
    with pytest.raises(ValueError, match="were changed by other means"):
        unload(sd)


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_pooling_of_old_configs_is_at_the_end_of_the_text(family: str, tmp_path: Path) -> None:
    pipe, sound = build(family), build(family)
    for _, encoder in encoders(pipe):
        encoder.config.eos_token_id = 2
        for part in encoder.modules():
            if hasattr(part, "eos_token_id"):
                part.eos_token_id = 2
    before = [encoded(*pair, "a fox") for pair in encoders(pipe)]
    with unchanged(pipe, tmp_path):
        for each in (pipe, sound):
            load(each, inversion(each))
        for pair, right, plain in zip(encoders(pipe), encoders(sound), before, strict=True):
            for prompt in ("a <cat> fox", "a fox"):
                assert torch.equal(encoded(*pair, prompt), encoded(*right, prompt))
            assert torch.equal(encoded(*pair, "a fox"), plain)
        unload(pipe, "<cat>")


# What is refused, and leaves everything as it was


def test_malformed_files_change_nothing(sd: Any, tmp_path: Path) -> None:
    with unchanged(sd, tmp_path):
        for malformed in CORPUS.values():
            path = tmp_path / malformed.name
            path.unlink(missing_ok=True)
            path.write_bytes(malformed.make(tmp_path / "trapped"))
            with pytest.raises(ValueError, match=r"cannot be used: .*"):
                load(sd, path)
    assert loaded(sd) == {} and not (tmp_path / "trapped").exists()


TENSORS: dict[str, tuple[dict[str, Tensor], str, str]] = {
    "another width": (
        {"clip_l": rows(2, 40)},
        "sd",
        r"width 40 \(text_encoder\), but StableDif.* 32",
    ),
    "SDXL for SD": (
        {"clip_l": rows(), "clip_g": rows(2, 40)},
        "sd",
        r"width 32 \(text_encoder\) and 40 \(text_encoder_2\), but .* takes 32 \(text_encoder\);",
    ),
    "SD for SDXL": (
        {"clip_l": rows()},
        "sdxl",
        r"width 32 \(text_encoder\), but .* takes 32 \(text_encoder\) and 32 \(text_encoder_2\)",
    ),
    "the second alone for SDXL": ({"clip_g": rows()}, "sdxl", r"width 32 \(text_encoder_2\), but"),
    "one half of another width": (
        {"clip_l": rows(), "clip_g": rows(2, 40)},
        "sd3",
        r"40 \(text_encoder_2\), but StableDiffusion3Pipeline takes .* 32 \(text_encoder_2\)",
    ),
    "two parts for FLUX": ({"clip_l": rows(), "clip_g": rows()}, "flux", "was made for another"),
    "too many vectors": (
        {"clip_l": rows(15)},
        "sd",
        "it has 15 vectors, but a prompt has room for 14",
    ),
    "far longer than words": (
        {"clip_l": rows() * 1000},
        "sd",
        "those of text_encoder have about 0.1",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_vectors_for_other_models_are_refused(tmp_path: Path, name: str) -> None:
    tensors, family, reason = TENSORS[name]
    pipe = build(family)
    save_file(tensors, tmp_path / "owl.safetensors")
    with unchanged(pipe, tmp_path), pytest.raises(ValueError, match=reason) as caught:
        load(pipe, tmp_path / "owl.safetensors")
    assert "owl.safetensors' cannot be used: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("a", "the tokenizer has a token 'a' already"),
        ("<|endoftext|>", "has a token '<|endoftext|>' already"),
        ("", "its word is empty"),
        ("my cat", "its word is 'my cat'"),
        ("<cat>\n", "its word is '<cat>"),
    ],
)
def test_words_that_are_taken_or_none_are_refused(
    sd: Any, tmp_path: Path, token: str, reason: str
) -> None:
    save_file({"<cat>": rows()}, tmp_path / "a.safetensors")
    with unchanged(sd, tmp_path), pytest.raises(ValueError, match=reason.replace("|", r"\|")):
        load(sd, tmp_path / "a.safetensors", token=token)
    with pytest.raises(ValueError, match=r"this textual-inversion cannot be used: "):
        load(sd, inversion(sd, token))


def test_the_same_word_twice_is_refused(pipe: Any, tmp_path: Path) -> None:
    load(pipe, inversion(pipe))
    with unchanged(pipe, tmp_path), pytest.raises(ValueError, match="has a token '<cat>' already"):
        load(pipe, inversion(pipe, count=1))
    with pytest.raises(ValueError, match="has a token '<cat>_1' already"):
        load(pipe, inversion(pipe, "<cat>_1"))


def test_tables_out_of_reach_are_refused(sd: Any) -> None:
    words = sd.text_encoder.get_input_embeddings()
    weight = words.weight
    for odd in (weight.to("meta"), weight.to(torch.int8)):
        words.weight = torch.nn.Parameter(odd, requires_grad=False)
        with pytest.raises(ValueError, match="embeddings of text_encoder are out of reach"):
            load(sd, inversion(sd))
    words.weight = torch.nn.Parameter(weight[:-1])
    with pytest.raises(ValueError, match="has 513 embeddings for the 514 tokens"):
        load(sd, inversion(sd))
    sd.text_encoder.set_input_embeddings(torch.nn.Identity())
    with pytest.raises(ValueError, match="has a Identity as embeddings"):
        load(sd, inversion(sd))
    object.__setattr__(sd, "tokenizer", object())
    sd.text_encoder.set_input_embeddings(words)
    with pytest.raises(ValueError, match="object is not made of the tokenizers library"):
        load(sd, inversion(sd))


def test_pipelines_without_clip_are_refused(dit: Any) -> None:
    artifact = Artifact("textual-inversion", {"clip_l": rows()}, {"token": "<cat>"})
    with pytest.raises(ValueError, match="DiTPipeline has no CLIP text encoder"):
        load(dit, artifact)
    assert loaded(dit) == {}
    unload(dit)


def test_an_error_half_way_takes_all_back(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise MemoryError

    with unchanged(pipe, tmp_path):
        monkeypatch.setattr(vocabulary, "add_tokens", fail)
        with pytest.raises(MemoryError):
            load(pipe, inversion(pipe))
    assert loaded(pipe) == {} and table.is_untouched(pipe.text_encoder)


def test_controls_and_names_that_are_not_known_are_refused(sd: Any) -> None:
    with pytest.raises(TypeError, match="textual-inversion has no control 'beta'; it has none"):
        load(sd, inversion(sd), beta=0.5)
    with pytest.raises(ValueError, match=r"'<cat>' is not loaded on this .*; loaded: nothing"):
        unload(sd, "<cat>")
    load(sd, inversion(sd))
    with pytest.raises(ValueError, match=r"'<dog>' is not loaded on this .*; loaded: <cat>"):
        unload(sd, "<dog>")
    with pytest.raises(ValueError, match="its kind 'hypernet' is none of textual-inversion"):
        load(sd, Artifact("hypernet", {"a": rows()}))


def test_kinds_of_one_line_are_loaded(
    sd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, calls = ModuleType("shades"), list[Any]()

    def put_on(pipe: Any, artifact: Artifact, token: str | None, shade: float = 1.0) -> Any:
        calls.append((pipe, artifact.tensors["shade"].tolist(), token, shade))
        return ("<shade>",)

    module.put_on = put_on  # type: ignore[attr-defined]
    module.take_off = lambda pipe, name: calls.append((pipe, name))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shades", module)
    kind = Kind("shades", "shade.safetensors", ("transformer", "unet"))
    monkeypatch.setitem(kinds.KINDS, "shade", kind)
    Artifact("shade", {"shade": torch.ones(2)}).save(tmp_path)
    found = load(sd, tmp_path, shade=0.5)
    assert found.name == "<shade>" and found.controls == {"shade": 0.5}
    assert list(loaded(sd)) == ["<shade>"]
    with pytest.raises(TypeError, match="shade has no control 'tint'; it has shade"):
        load(sd, tmp_path, tint=1)
    unload(sd, "<shade>")
    assert calls == [(sd, [1.0, 1.0], None, 0.5), (sd, "<shade>")]
