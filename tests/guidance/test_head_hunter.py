"""The search for heads: analytic orders, a slow reference, its budget, its log, its result."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guidance import CFG, HeadSet, Rule, SoftPAG, guide, hunt, inspect
from guidance.core.fingerprint import weights_hash
from guidance.core.heads import resolve
from guidance.head_hunter import budget, greedy
from guidance.hunting import processes
from guidance.hunting.progress import OnProgress, Progress
from guidance.hunting.trial import Trial
from tests import tiny

MID = "mid_block.attentions.0.transformer_blocks.0.attn1"
FIRST = "transformer_blocks.0.attn"
CALL: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 1.0, "height": 16, "width": 16}
PROMPTS, SEEDS = ("a cat", "a hat"), (3, 8)


def contrast(images: list[Any], prompts: list[Any]) -> list[float]:
    """Deviation of the pixels, which all heads change; for a cat it counts twice."""
    weights = [2 if prompt == "a cat" else 1 for prompt in prompts]
    pairs = zip(weights, images, strict=True)
    return [weight * float(np.asarray(image, dtype=float).std()) for weight, image in pairs]


class Counting:
    """A pipeline that counts the images that it is asked for."""

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.images = pipe, 0
        own = type(pipe)

        def count(this: Any, prompts: Sequence[Any], **call: Any) -> Any:
            self.images += len(prompts)
            return own.__call__(this, prompts, **call)

        pipe.__class__ = type(own.__name__, (own,), {"__call__": count})


def search(pipe: Any, objective: Any = contrast, **changes: Any) -> HeadSet:
    """A search over the four or eight heads of one layer that takes a moment."""
    layer = FIRST if hasattr(pipe, "transformer") else "mid"
    settings: dict[str, Any] = {"candidates": layer, "k": 2, "call": CALL}
    settings |= {"prompts": PROMPTS, "seeds": SEEDS}
    return hunt(pipe, objective, **settings | changes)


@pytest.fixture(scope="module")
def found() -> HeadSet:
    return search(tiny.sd())


VALUES = {"a": 1.0, "b": 3.0, "c": 2.5, "d": 0.5}
BONUS = {frozenset("bd"): 4.0, frozenset("ac"): 9.0}


def worth(heads: tuple[str, ...]) -> float:
    """The sum of the heads' own values, and a bonus for pairs."""
    pairs = sum(bonus for pair, bonus in BONUS.items() if pair <= set(heads))
    return sum(VALUES[head] for head in heads) + pairs


def test_greedy_on_a_known_function_of_the_set() -> None:
    # b alone, then d for its bonus, then a or c of which c is worth more, then a with c's bonus
    assert greedy(worth, "abcd", 4) == ("b", "d", "c", "a")
    assert greedy(worth, "abcd", 2) == ("b", "d")


@pytest.mark.parametrize("k", [0, 1, 4, 99])
def test_greedy_picks_as_many_as_there_are(k: int) -> None:
    assert greedy(worth, "abcd", k) == ("b", "d", "c", "a")[:k]
    assert greedy(worth, (), k) == ()


@pytest.mark.parametrize("order", ["abcd", "dcba", "bdac"])
def test_first_of_equals_wins(order: str) -> None:
    assert greedy(lambda heads: 1.0, order, 4) == tuple(order)
    assert greedy(lambda heads: float("c" in heads), order, 1) == ("c",)


def test_greedy_asks_for_each_set_once_in_the_order_picked() -> None:
    asked: list[tuple[str, ...]] = []

    def score(heads: tuple[str, ...]) -> float:
        asked.append(heads)
        return worth(heads)

    greedy(score, "abcd", 3)
    assert asked[:4] == [("a",), ("b",), ("c",), ("d",)]
    assert asked[4:7] == [("b", "a"), ("b", "c"), ("b", "d")]
    assert asked[7:] == [("b", "d", "a"), ("b", "d", "c")]
    assert budget(4, 3, 1) == len(asked) + 1


def test_nan_has_no_place_in_an_order() -> None:
    with pytest.raises(
        ValueError, match=r"^the score of \('a', 'c'\) must be a number, found nan$"
    ):
        greedy(lambda heads: math.nan if heads == ("a", "c") else 1.0, "abc", 2)
    assert greedy(lambda heads: -math.inf, "ab", 1) == ("a",)


def test_budget() -> None:
    assert budget(576, 3, 8) == 8 * (1 + 576 + 575 + 574)
    assert budget(4, 99, 5) == 5 * (1 + 4 + 3 + 2 + 1)
    assert budget(4, 0, 5) == 5


def test_search_picks_by_the_function_of_the_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = (0.0, 2.0, 5.0, 1.0, 0.0, 0.0, 0.0, 0.0)

    def scores(trial: Trial, heads: Any) -> list[float]:
        numbers = [head for _, head in heads]
        value = sum(values[head] for head in numbers) + 7 * ({1, 3} <= set(numbers))
        return [value - 1, value + 1, value, value]

    monkeypatch.setattr(Trial, "scores", scores)
    found = search(tiny.sd(), k=99)
    assert [head for _, head in found.heads] == [2, 1, 3, 0, 4, 5, 6, 7]
    assert found.baseline == 0
    assert found.scores == (5, 7, 15, 15, 15, 15, 15, 15)
    assert [len(scored) for scored in found.rounds] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert found.best().heads == found.heads[:3]
    assert found.best().best() == found.best()


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_matches_a_slow_search(name: str) -> None:
    pipe = Counting(tiny.FAMILIES[name]())
    seen: list[Progress] = []
    layer = FIRST if name == "sd3" else MID
    heads = [(layer, head) for head in range(4 if name == "sd3" else 8)]
    options: dict[str, Any] = {"scale": 20.0, "strength": 0.7, "batch_size": 3}
    found = search(pipe.pipe, **options, on_progress=seen.append)
    total = budget(len(heads), 2, 4)
    assert pipe.images == total
    assert [(now.done, now.total) for now in seen] == [(n, total) for n in range(0, total + 1, 4)]
    first, last = found.rounds
    assert (seen[0].baseline, seen[0].rounds) == (None, ({},))
    assert (seen[1].baseline, seen[1].rounds) == (found.baseline, ({},))
    for count, now in enumerate(seen[2:], 1):
        beside = count - len(first)
        assert now.baseline == found.baseline
        assert list(now.rounds[0].items()) == list(first.items())[:count]
        assert now.heads == (found.heads[:1] if beside > 0 else ())
        assert len(now.rounds) == (2 if beside > 0 else 1)
        if beside > 0:
            assert list(now.rounds[1].items()) == list(last.items())[:beside]

    def slow(some: Sequence[Any]) -> float:
        scores = []
        for prompt in PROMPTS:
            for seed in SEEDS:
                generator = torch.Generator().manual_seed(seed)
                rule = SoftPAG(20.0, heads=tuple(some), strength=0.7) if some else CFG(1.0)
                with guide(pipe.pipe, rule):
                    image = pipe.pipe([prompt], generator=[generator], **CALL).images[0]
                scores += contrast([image], [prompt])
        return sum(scores) / 4

    chosen: list[Any] = []
    assert found.baseline == pytest.approx(slow([]), abs=0.01)
    for scored in found.rounds:
        left = [head for head in heads if head not in chosen]
        expected = [slow([*chosen, head]) for head in left]
        assert list(scored) == left
        assert list(scored.values()) == pytest.approx(expected, abs=0.01)
        assert np.ptp(expected) > 0.05
        chosen.append(max(scored, key=scored.__getitem__))
    assert found.heads == tuple(chosen)
    assert (found.scale, found.strength, found.call) == (20.0, 0.7, CALL)
    assert (found.prompts, found.seeds, found.objective) == (PROMPTS, SEEDS, "contrast")
    listed = inspect(pipe.pipe).layers
    assert found.layers == {each.path: each.heads for each in listed if each.kind != "cross"}


def test_guidance_beside_and_one_negative_prompt_for_all(sd: Any) -> None:
    call = CALL | {"guidance_scale": 2.0, "negative_prompt": "grey"}
    found = search(sd, guidance=CFG(4.0), call=call, k=1, scale=1.0, candidates=("mid:1", "mid:5"))
    assert list(found.rounds[0]) == [(MID, 1), (MID, 5)]
    assert found.guidance == "CFG(scale=4.0)"
    many = call | {"negative_prompt": ["grey"] * 4}
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS * 2]
    with guide(sd, CFG(4.0) + SoftPAG(1.0, heads="mid:5")):
        images = sd([*PROMPTS[:1] * 2, *PROMPTS[1:] * 2], generator=generators, **many).images
    assert (
        found.rounds[0][MID, 5] == math.fsum(contrast(images, np.repeat(PROMPTS, 2).tolist())) / 4
    )


def test_class_labels(dit: Any) -> None:
    call = {"num_inference_steps": 1, "guidance_scale": 1.0}
    found = hunt(dit, contrast, [1, 7], [0], "transformer_blocks.1", 1, call=call)
    assert len(found.rounds[0]) == 2
    assert found.prompts == (1, 7)


def test_all_heads_are_candidates_by_default(sd: Any) -> None:
    found = hunt(sd, contrast, ["x"], [0], k=1, call=CALL | {"num_inference_steps": 1})
    layers = [each for each in inspect(sd).layers if each.kind == "image"]
    assert len(layers) == 4
    assert set(found.rounds[0]) == {(each.path, head) for each in layers for head in range(8)}


class Killed(Exception):
    """What ends a search in the middle."""


def kill_at(done: int) -> OnProgress:
    def on_progress(now: Progress) -> None:
        if now.done == done:
            raise Killed

    return on_progress


@pytest.mark.parametrize("stop", [0, 4, 16, 48, 64])
def test_a_killed_search_goes_on(stop: int, found: HeadSet, tmp_path: Path) -> None:
    pipe = Counting(tiny.sd())
    with pytest.raises(Killed):
        search(pipe.pipe, folder=tmp_path / "work", on_progress=kill_at(stop))
    assert pipe.images == stop
    seen: list[Progress] = []
    assert search(pipe.pipe, folder=tmp_path / "work", on_progress=seen.append) == found
    assert pipe.images == budget(8, 2, 4) == 64
    assert [now.done for now in seen] == list(range(stop, 65, 4))
    assert len(seen[0].rounds[0]) == min(8, max(0, stop // 4 - 1))
    assert search(pipe.pipe, folder=tmp_path / "work") == found
    assert pipe.images == 64


def test_a_line_that_was_cut_off_is_made_again(found: HeadSet, tmp_path: Path) -> None:
    pipe = Counting(tiny.sd())
    with pytest.raises(Killed):
        search(pipe.pipe, folder=tmp_path, on_progress=kill_at(20))
    lines = tmp_path / "scores.jsonl"
    lines.write_text(lines.read_text()[:-9])
    assert search(pipe.pipe, folder=tmp_path) == found
    assert pipe.images == 64 + 4
    assert [len(json.loads(line)["scores"]) for line in lines.read_text().splitlines()] == [4] * 16


def test_more_heads_go_on_from_fewer_and_fewer_from_more(tmp_path: Path) -> None:
    pipe = Counting(tiny.sd())
    one = search(pipe.pipe, folder=tmp_path, k=1)
    two = search(pipe.pipe, folder=tmp_path, k=2)
    assert pipe.images == 64
    assert two.rounds[:1] == one.rounds
    seen: list[Progress] = []
    assert search(pipe.pipe, folder=tmp_path, k=1, on_progress=seen.append) == one
    assert seen == [Progress(36, 36, one.baseline, one.rounds)]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"scale": 2.0}, "scale"),
        ({"strength": 0.5}, "strength"),
        ({"prompts": ("a cat",)}, "prompts"),
        ({"seeds": (3, 9)}, "seeds"),
        ({"guidance": CFG(1.0)}, "guidance"),
        ({"call": CALL | {"num_inference_steps": 1}}, "call"),
        ({"candidates": ("mid:0", "mid:1")}, "candidates"),
        ({"batch_size": 1}, "batch_size"),
        ({"objective": lambda images, prompts: [0.0] * 4}, "objective"),
    ],
)
def test_another_search_is_refused(changes: dict[str, Any], name: str, tmp_path: Path) -> None:
    pipe = Counting(tiny.sd())
    with pytest.raises(Killed):
        search(pipe.pipe, folder=tmp_path, on_progress=kill_at(4))
    with pytest.raises(ValueError, match=f"holds another search: its {name} is .*, found .*; cho"):
        search(pipe.pipe, folder=tmp_path, **changes)
    pipe.pipe.unet.conv_in.weight.data += 1
    with pytest.raises(ValueError, match="its weights is"):
        search(pipe.pipe, folder=tmp_path)
    assert pipe.images == 4


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("settings.json", None),
        ("settings.json", "{"),
        ("scores.jsonl", None),
        ("scores.jsonl", "half\n"),
        ("scores.jsonl", '{"heads": 5}\n'),
        ("scores.jsonl", "7\n"),
    ],
)
def test_a_broken_log_is_refused(name: str, content: str | None, tmp_path: Path, sd: Any) -> None:
    with pytest.raises(Killed):
        search(sd, folder=tmp_path, on_progress=kill_at(4))
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=r"^folder .* holds scores that cannot be read \(.*delete"):
        search(sd, folder=tmp_path)


def test_nothing_is_left_of_a_search_that_never_began(tmp_path: Path, sd: Any) -> None:
    with pytest.raises(Killed):
        search(sd, folder=tmp_path / "work", on_progress=kill_at(0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_named(value: float, sd: Any) -> None:
    calls: list[int] = []

    def objective(images: list[Any], prompts: list[Any]) -> Any:
        calls.append(len(images))
        scores = torch.arange(4.0)
        if len(calls) == bad:
            scores[3] = value
        return scores

    bad = 1
    words = f"objective objective gave {value} for head none, seed 8 and prompt 'a hat': expected"
    with pytest.raises(ValueError, match=words):
        search(sd, objective)
    calls, bad = [], 12
    words = rf"gave {value} for head {MID}:3 beside {MID}:0, seed 8 and prompt 'a hat'"
    with pytest.raises(ValueError, match=words):
        search(sd, objective)


def test_an_objective_must_score_each_image(sd: Any) -> None:
    with pytest.raises(ValueError, match=r"one number for each of 4 images, found shape \(1,\)"):
        search(sd, lambda images, prompts: [0.5])


def test_results_know_an_objective_by_its_name(sd: Any) -> None:
    class Told:
        name = "my own"

        def __call__(self, images: list[Any], prompts: list[Any]) -> Any:
            return np.zeros(4, dtype=np.float32)

    assert search(sd, Told(), k=1, candidates="mid:0").objective == "my own"
    Told.name = ""
    assert search(sd, Told(), k=1, candidates="mid:0").objective == "Told"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": 0}, "hunt: scale must be above 0"),
        ({"strength": 0.0}, "hunt: strength must be above 0"),
        ({"strength": 1.5}, "hunt: strength must be a finite number from 0 to 1, found 1.5"),
        ({"k": 0}, "hunt: k must be a whole number from 1 up, found 0"),
        ({"batch_size": True}, "hunt: batch_size must be a whole number from 1 up, found True"),
        ({"prompts": "a cat"}, "hunt: prompts must be a list with something in it"),
        ({"prompts": ()}, "hunt: prompts must be a list with something in it"),
        ({"prompts": ("x", "y", "x")}, "hunt: prompts must hold each once"),
        ({"seeds": (1.5,)}, "hunt: seeds must be a list with something in it"),
        ({"seeds": 4}, "hunt: seeds must be a list with something in it, found 4"),
        ({"candidates": ()}, "hunt: candidates must select something"),
        ({"candidates": "mild"}, "has no attention layer 'mild'; nearest of 4"),
        ({"candidates": ("mid", "mid:1")}, "selects head 1 of .* a second time"),
    ],
)
def test_impossible_settings_are_one_line(
    changes: dict[str, Any], words: str, sd: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        search(sd, folder=tmp_path / "work", **changes)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_processes_that_do_not_know_of_each_other(sd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were launched that do not know of each"):
        search(sd)


@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_process_raises_is_raised_in_all(
    rank: int, sd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes of which the other has no disk: both stop, only the first keeps scores."""
    gathered: list[Any] = []

    def gather(outcomes: list[Any], own: Any) -> None:
        gathered.append(own)
        failed = (None, OSError("disk full")) if len(gathered) == 3 else ([[0.0] * 4], None)
        outcomes[:] = [own, own]
        outcomes[1 - rank] = ({}, None) if len(gathered) == 1 else failed

    scores, tried = Trial.scores, []

    def spied(trial: Trial, heads: Any) -> list[float]:
        tried.append([head for _, head in heads])
        return scores(trial, heads)

    monkeypatch.setattr(Trial, "scores", spied)
    fake = {"is_available": True, "is_initialized": True, "get_rank": rank, "get_world_size": 2}
    parts = {name: staticmethod(lambda value=value: value) for name, value in fake.items()}
    together = type("Distributed", (), {**parts, "all_gather_object": staticmethod(gather)})
    monkeypatch.setattr(processes, "distributed", together)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OSError, match="disk full"):
        search(sd, folder=tmp_path / "work")
    assert (gathered[0][0] is None) == (rank == 1)
    assert tried == ([[], [1]] if rank == 0 else [[0], [2]])
    assert len(gathered) == 3
    assert (tmp_path / "work").exists() == (rank == 0)


def test_round_trip(found: HeadSet, tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    found.save(path)
    assert HeadSet.load(path) == found
    assert [file.name for file in tmp_path.iterdir()] == ["heads.json"]
    raw = json.loads(path.read_text())
    assert list(raw)[:3] == ["format", "version", "heads"]
    assert raw["heads"] == [list(head) for head in found.heads]
    assert raw["rounds"][1] == [[*head, score] for head, score in found.rounds[1].items()]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: [raw], "it holds something else"),
        (lambda raw: raw | {"format": "lora"}, "it holds something else"),
        (lambda raw: raw | {"version": 2}, "its version is 2, expected 1"),
        (lambda raw: {k: v for k, v in raw.items() if k != "seeds"}, "it lacks seeds"),
        (lambda raw: raw | {"color": 1}, "it has an unknown color"),
        (lambda raw: raw | {"heads": raw["heads"][::-1]}, "its heads are not the best of its"),
        (lambda raw: raw | {"rounds": []}, "each round needs a scored head"),
        (lambda raw: raw | {"rounds": [raw["rounds"][0], []]}, "each round needs a scored head"),
        (lambda raw: raw | {"rounds": [[["mid", 0]]]}, "not enough values"),
        (lambda raw: raw | {"rounds": raw["rounds"][:1] * 2}, "round 2 tries .* is found already"),
        (lambda raw: raw | {"baseline": math.nan}, "no finite number"),
        (lambda raw: raw | {"baseline": "1"}, "no finite number"),
        (lambda raw: raw | {"scale": None}, "no finite number"),
        (lambda raw: raw | {"layers": {MID: 4}}, f"no layer has head {MID}:4"),
        (lambda raw: raw | {"rounds": [[[MID, -1, 0.5]]]}, f"no layer has head {MID}:-1"),
        (lambda raw: raw | {"layers": 3}, "its layers is 3"),
        (lambda raw: raw | {"model": None}, "its model is None"),
        (lambda raw: raw | {"prompts": "ab"}, "its prompts are 'ab'"),
        (lambda raw: raw | {"seeds": 3}, "its seeds are 3"),
    ],
)
def test_malformed_files_are_one_line(
    change: Callable[[Any], Any], words: str, found: HeadSet, tmp_path: Path
) -> None:
    path = tmp_path / "heads.json"
    path.write_text(json.dumps(change(found.to_dict())))
    with pytest.raises(ValueError, match=words) as caught:
        HeadSet.load(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{str(path)!r} must be a file that HeadSet.save or ")


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe\x00"])
def test_files_that_are_no_json(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"must be a file that HeadSet\.save or .*cannot be used"):
        HeadSet.load(path)


def test_a_heat_map_is_drawn(found: HeadSet, tmp_path: Path) -> None:
    found.plot(tmp_path / "heads.png")
    flat = replace(found, rounds=({head: found.baseline for head in found.rounds[0]},))
    flat.plot(tmp_path / "flat.png")
    with Image.open(tmp_path / "heads.png") as one, Image.open(tmp_path / "flat.png") as two:
        colours = [np.unique(np.asarray(image).reshape(-1, 4), axis=0) for image in (one, two)]
        assert one.size == two.size
        middle = np.asarray(two)[two.height // 2, two.width // 2]
        assert middle.min() > 235  # no gain, no colour
        assert len(colours[0]) > len(colours[1])


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_softening_a_head_set_is_softening_its_heads(name: str, tmp_path: Path) -> None:
    pipe = tiny.FAMILIES[name]()
    search(pipe, call=CALL | {"num_inference_steps": 1}).save(tmp_path / "heads.json")
    found = HeadSet.load(tmp_path / "heads.json")
    by_set = SoftPAG(2.0, heads=found, strength=0.6)
    by_name = SoftPAG(2.0, heads=found.heads, strength=0.6)
    assert by_set == by_name
    assert repr(by_set) == repr(by_name)
    assert Rule.from_config(json.loads(json.dumps(by_set.to_config()))) == by_set
    with guide(pipe, by_name):
        expected = tiny.sample(pipe, batch=2)
    for rule in (by_set, Rule.from_config(by_set.to_config()), by_set.between(0.0, 1.0)):
        with guide(pipe, rule) as run:
            assert torch.equal(tiny.sample(pipe, batch=2), expected)
        assert run.report.touched == tuple(f"{layer}:{head}" for layer, head in found.heads)
    with guide(pipe, SoftPAG(2.0, heads=found, strength=(0.6, 0.6))):
        assert torch.equal(tiny.sample(pipe, batch=2), expected)


def test_heads_of_another_model_are_refused(found: HeadSet, sd: Any, sd3: Any) -> None:
    rule = SoftPAG(heads=found)
    for limited in (rule, rule.between(0.0, 0.5), CFG(2.0) + rule):
        with pytest.raises(ValueError, match=r"attn1 has 8 heads in the UNet.*, and 0 in this SD3"):
            guide(sd3, limited)
    with pytest.raises(ValueError, match=r"has 8 heads in the .*, and 4 in this UNet2DCond"):
        guide(tiny.sd(attention_head_dim=4), rule)
    with pytest.raises(ValueError, match=r"has 0 heads in the .*, and 8 in this UNet2DCond"):
        guide(sd, SoftPAG(heads=replace(found, layers={MID: 8})))


def test_other_weights_are_warned_of(found: HeadSet, sd: Any) -> None:
    with guide(sd, SoftPAG(heads=found)):
        pass
    sd.unet.conv_in.bias.data[0] += 1
    with pytest.warns(UserWarning, match="found on a UNet2DConditionModel with other weights"):
        guide(sd, SoftPAG(heads=found))


def test_hash_of_weights() -> None:
    model = tiny.sd().unet
    full = weights_hash(model)
    assert weights_hash(tiny.sd().unet) == full
    assert weights_hash(model.to(torch.bfloat16)) == full
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    assert weights_hash(model) != full
    wide = torch.nn.Linear(3000, 2)
    before = weights_hash(wide)
    with torch.no_grad():
        wide.weight[1, 1500:] += 0.1
    assert weights_hash(wide) != before
    assert weights_hash(wide.to("meta")) == weights_hash(torch.nn.Linear(3000, 2, device="meta"))


def test_candidates_are_those_of_soft_pag(sd: Any) -> None:
    found = search(sd, candidates=("up_blocks.*.attentions.1:2", ("mid", 4)), k=1)
    selected = resolve(sd.unet, ("up_blocks.*.attentions.1:2", ("mid", 4)))
    assert list(found.rounds[0]) == [(part.layer.path, part.heads[0]) for part in selected]
