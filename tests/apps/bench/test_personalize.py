"""``diffusteer bench personalize``: rows, files, and a plain loop that learns what ours learns."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from apps.bench import personalize, pipelines, training_memory, training_parts
from apps.bench.personalize import bench_personalize, rounds
from apps.bench.pipelines import concept, photos, pipeline, side, twin
from apps.bench.plain_inversion import PlainInversion
from apps.bench.settings import TRAINING_PARTS, PersonalizeSettings
from apps.bench.training_memory import CASES, REFERENCE, TOKEN, Cost, cost
from apps.bench.training_parts import throughput
from apps.cli import app
from personalize import TextualInversion, ZOODiP, load
from personalize.core.backbone import Backbone
from personalize.core.targets import Noising
from tests.personalize.test_textual_inversion import batch, context
from tests.tiny import sample, sd

TINY = PersonalizeSettings(models=("tiny",), pairs=3)


def run(*arguments: object) -> Result:
    command = ["bench", "personalize", *map(str, arguments)]
    return CliRunner().invoke(app, command, catch_exceptions=False)


def fake_cost(case: str, *others: Any) -> Cost:
    """Numbers that grow with the place of the case."""
    place = 1 + list(CASES).index(case)
    return Cost(place * 2**20, place * 2**30, place / 2)


def test_files_of_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_parts, "cost", fake_cost)
    monkeypatch.setattr("sys.argv", ["/bin/diffusteer", "bench", "personalize"])
    result = run("--model", "tiny", "--pairs", 3, "--out", tmp_path / "made" / "x")
    assert result.exit_code == 0, result.stderr
    with (tmp_path / "made" / "x.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["part"] for row in rows] == ["memory"] * 9 + ["throughput", "layers"]
    assert [row["unit"] for row in rows[:3]] == ["bytes", "bytes", "s per step"]
    found = [(float(row["ours"]), float(row["other"]), float(row["ratio"])) for row in rows[3:6]]
    assert found == [(3 * 2**20, 2**20, 3), (3 * 2**30, 2**30, 3), (1.5, 0.5, 3)]
    assert rows[3]["case"] == f"peak of a step, ZOODiP in int8 against {REFERENCE}, 128 px"
    for row in rows[9:]:
        assert 0 < float(row["low"]) <= float(row["ratio"]) <= float(row["high"])
        assert int(row["pairs"]) == 3
    assert [float(row["bar"]) for row in rows[9:]] == [1 / 1.5, 1.03]
    about = json.loads((tmp_path / "made" / "x.json").read_text())
    assert about["command"] == "diffusteer bench personalize"
    assert len(about["rows"]) == 11
    assert all(row["case"] in result.stdout for row in rows)


def test_every_round_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_parts, "cost", fake_cost)
    settings = PersonalizeSettings(models=("tiny",), pairs=4, out=tmp_path / "x")
    told: list[str] = []
    bench_personalize(settings, "command", told.append)
    assert len(told) == rounds(settings)
    assert set(told) == {f"{part} tiny" for part in TRAINING_PARTS}


def test_processor_time_is_no_time_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personalize, "pick_device", lambda name: torch.device("cuda"))
    with pytest.raises(ValueError, match="clock must be wall where a GPU computes"):
        bench_personalize(PersonalizeSettings(clock="processor"), "command")


def test_memory_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    model = tmp_path / "model"
    pipeline("tiny", TINY).save_pretrained(model)
    found = cost(REFERENCE, model, photos(tmp_path / "photos", 128), 128, "no", 1, "wall")
    assert 2**16 < found.step <= found.run < 2**30
    assert 0 < found.seconds < 60


def test_memory_that_cannot_be_measured_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nOutOfMemoryError: too large")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(ValueError, match=r"memory of ZOODiP in int8 .* OutOfMemoryError: too larg"):
        cost("ZOODiP in int8", Path("model"), Path("photos"), 128, "no", 1, "wall")


def test_cases_are_what_their_names_say() -> None:
    first, checkpointed, quantized, plain = CASES.values()
    assert first == (TextualInversion(TOKEN), {})
    assert checkpointed == (TextualInversion(TOKEN), {"gradient_checkpointing": True})
    assert quantized == (ZOODiP(TOKEN), {})
    assert plain == (ZOODiP(TOKEN, quantize=False), {})


def test_a_meter_leaves_the_first_step_out(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks, times = [900, 500], [10.0, 13.0, 15.0, 20.0]
    monkeypatch.setitem(training_memory.CLOCKS, "test", lambda: times.pop(0))
    meter = training_memory._Meter("test")
    monkeypatch.setattr(meter, "_peak", lambda: peaks.pop(0))
    for phase in ("encoding", *["training"] * 4, "saving"):
        meter(SimpleNamespace(phase=phase))  # type: ignore[arg-type]
    assert meter.read() == Cost(500, 900, 3.0)


def test_the_plain_loop_learns_what_ours_learns() -> None:
    pipe, prompts = sd(), ("a {}", "my {} b", "{}")
    start = context(pipe, prompts)
    training = TextualInversion(TOKEN).start(start)
    (ours,) = training.parameters.values()
    plain = PlainInversion(pipe, TOKEN, ours[0].detach())
    before = plain.table.detach().clone()
    optimizer = torch.optim.AdamW([ours], lr=5e-4, weight_decay=0.0)
    pixels = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    texts = [prompt.replace("{}", TOKEN) for prompt in prompts]
    for seed in range(3):
        loss = training.loss(_batch(start.backbone, pixels, prompts, seed)).mean()
        loss.backward()
        theirs = plain.loss(pixels, texts, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(theirs, loss)
        (gradient,) = torch.autograd.grad(theirs, plain.table)
        assert ours.grad is not None
        torch.testing.assert_close(gradient[-1:], ours.grad, rtol=1e-4, atol=1e-8)
        optimizer.step()
        optimizer.zero_grad()
        plain.step(pixels, texts, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(plain.table[-1:].detach(), ours.detach(), rtol=1e-4, atol=1e-6)
    assert torch.equal(plain.table[:-1], before[:-1])
    assert not torch.equal(plain.table[-1], before[-1])


def _batch(backbone: Backbone, pixels: Any, prompts: tuple[str, ...], seed: int) -> Any:
    """What the trainer makes of the plain loop's draws."""
    draws = torch.Generator().manual_seed(seed)
    mean, std = backbone.encode_images(pixels)
    clean = mean + std * torch.randn(mean.shape, generator=draws)
    noise = torch.randn(mean.shape, generator=draws)
    levels = torch.randint(1000, (len(mean),), generator=draws)
    noising = Noising.of(backbone.pipe.scheduler)
    values = vars(batch(backbone, prompts=prompts)) | {
        "latents": clean,
        "noise": noise,
        "timesteps": levels,
        "noisy": noising.noisy(clean, noise, levels),
        "target": noise,
        "weights": torch.ones(len(mean)),
        "masks": None,
    }
    return type(batch(backbone))(**values)


def test_steps_of_the_two_loops_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = [0.0], [""]

    def turn(name: str, seconds: float) -> Callable[[], None]:
        def work() -> None:
            order[0] += name
            clock[0] += seconds

        return work

    ours, other, pairs = turn("a", 2.0), turn("b", 4.0), list[None]()

    def train(*arguments: Any) -> None:
        settings, on_progress = arguments[4], arguments[6]
        clock[0] += 100
        on_progress(SimpleNamespace(phase="encoding"))
        for _ in range(settings.max_train_steps):
            ours()
            on_progress(SimpleNamespace(phase="training", steps=settings.max_train_steps))
        on_progress(SimpleNamespace(phase="saving"))

    monkeypatch.setitem(training_parts.CLOCKS, "processor", lambda: clock[0])
    monkeypatch.setattr(training_parts, "train", train)
    monkeypatch.setattr(training_parts, "_plain_steps", lambda *arguments: other)
    for count, expected in ((3, "abba" * 2), (4, "abba" * 2 + "ab")):
        order[0] = ""
        settings = PersonalizeSettings(models=("tiny",), pairs=count, clock="processor")
        (row,) = throughput("tiny", settings, lambda: pairs.append(None))
        assert (row.ours, row.other, row.ratio, row.pairs) == (2, 4, 0.5, count)
        assert order[0] == expected and row.unit == "processor s per step"
    assert row.met and len(pairs) == 4 + 5


def test_a_twin_shares_weights_and_nothing_else() -> None:
    pipe = sd()
    before, words = sample(pipe), len(pipe.tokenizer)
    other = twin(pipe)
    for name in ("unet", "vae", "text_encoder"):
        one, two = getattr(pipe, name), getattr(other, name)
        assert one is not two
        assert all(p is q for p, q in zip(one.parameters(), two.parameters(), strict=True))
    load(other, concept(other, TOKEN))
    assert not torch.equal(sample(other, prompt=[f"a {TOKEN}"]), sample(other, prompt=["red fox"]))
    assert torch.equal(sample(pipe), before) and len(pipe.tokenizer) == words
    assert not any(module._forward_hooks for module in pipe.unet.modules())


def test_the_concept_is_at_work_in_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def paired(ours: Any, other: Any, *others: Any) -> Any:
        seen.extend((ours(), other()))
        raise StopIteration

    monkeypatch.setattr(training_parts, "paired", paired)
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(training_parts.layers("tiny", TINY, lambda: None))
    assert seen[0].shape == (1, 4, 16, 16)
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)


def test_sd15_has_the_size_of_stable_diffusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines, "pick_device", lambda name: torch.device("meta"))
    pipe = pipeline("sd15", PersonalizeSettings(dtype="float32"))
    sizes = {
        name: sum(weight.numel() for weight in part.parameters())
        for name, part in pipe.components.items()
        if isinstance(part, nn.Module)
    }
    assert sizes == {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}
    assert len(pipe.tokenizer) == 49408
    assert side(pipe, PersonalizeSettings()) == 512
    assert side(pipe, PersonalizeSettings(resolution=320)) == 320
    monkeypatch.setattr(pipelines, "pick_device", lambda name: torch.device("cpu"))
    assert side(pipe, PersonalizeSettings()) == 256


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--model", "sdxl"], "unknown model 'sdxl': expected emblem-unet, tiny, sd15"),
        (["--part", "pag"], "unknown part 'pag': expected memory, throughput, layers"),
        (["--pairs", "2"], "pairs must be a whole number from 3 up, found 2"),
        (["--steps", "0"], "steps must be a whole number from 1 up, found 0"),
        (["--resolution", "100"], "resolution must be a multiple of 64 from 64 up, found 100"),
        (["--resolution", "0"], "resolution must be a multiple of 64 from 64 up, found 0"),
        (["--clock", "sun"], "unknown clock 'sun': expected wall, processor"),
        (["--dtype", "int8"], "unknown dtype 'int8'"),
        (["--out", "/proc/x"], "cannot write to out folder"),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, wrong: list[str], words: str) -> None:
    quick = ["--model", "tiny", "--pairs", 3, "--out", tmp_path / "x"]
    result = run(*quick, *wrong)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
