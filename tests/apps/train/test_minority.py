"""``diffusteer train minority``: what is learned, files, going on, two processes, wrong input."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from typer.testing import CliRunner, Result

from apps.cli import app
from apps.pipelines import load_pipeline
from apps.train.minority import correlation, measure, noised
from apps.train.minority_scores import Scored
from apps.training.state import Recipe
from apps.training.trainer import train
from guidance import CFG, MinorityGuidance, guide, minority_scores, quantile_labels
from guidance.evaluators import LatentClassifier, NetworkSettings, build, load_evaluator
from guidance.minority import MinorityClassifier
from tests import tiny

LIMIT = 300
"""Seconds until two processes are taken to hang."""


def run(*arguments: object) -> Result:
    words = ["train", "minority", *map(str, arguments)]
    return CliRunner().invoke(app, words, catch_exceptions=False)


def quick(models: Path, pictures: Path, out: Path, *more: object) -> list[object]:
    """Options of a training that takes a moment."""
    return [
        *("--model", models / "sd", "--data", pictures, "--out", out, "--classes", 3),
        *("--draws", 1, "--steps", 4, "--training-batch", 4, "--width", 8, "--depth", 1),
        *("--device", "cpu"),
        *more,
    ]


@pytest.fixture(scope="module")
def trained(models: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "minority"
    result = run(*quick(models, pictures, out, "--truth", "rarity"))
    assert result.exit_code == 0, result.stderr
    assert "rank correlation of score and truth: " in result.stdout
    assert "by chance" in result.stdout
    assert result.stdout.splitlines()[-1] == f"written to {out}"
    return out


def test_json(trained: Path, models: Path, pictures: Path) -> None:
    """What the held-out pictures say, from the work that is kept."""
    result = run(*quick(models, pictures, trained, "--truth", "rarity"), "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    about = load_evaluator(trained).config.training
    assert list(found) == ["folder", "scores", "chance", "truth"]
    assert (found["folder"], found["scores"]) == (str(trained), about["scores"])


def test_config_says_what_it_is_and_how_it_was_made(
    trained: Path, models: Path, pictures: Path
) -> None:
    found = load_evaluator(trained).config
    assert (found.kind, found.input) == ("minority", "noisy")
    assert found.classes == ("up to 33.33%", "up to 66.67%", "up to 100%")
    assert found.denoiser is not None
    assert found.denoiser["class"] == "UNet2DConditionModel"
    about = found.training
    assert about["score"] == {"level": 0.6, "draws": 1, "distance": "mse"}
    assert about["command"].startswith("diffusteer train minority --data ")
    assert about["command"].endswith(
        "--classes 3 --draws 1 --truth rarity --steps 4 "
        "--training-batch 4 --width 8 --depth 1 --device cpu"
    )
    assert about["data"]["pictures"] == 24
    assert about["data"]["held_out"] == 2
    assert about["chance"] == {"accuracy": 1 / 3, "off": 0.6667}
    # Each held-out picture is measured in four draws of noise.
    assert sum(row["count"] for row in about["scores"]) == 8
    assert about["truth"]["pictures"] == 24


def test_scores_are_those_of_the_kept_latents(trained: Path, models: Path) -> None:
    pipe = load_pipeline(str(models / "sd"), device="cpu")
    parts = [load_file(path) for path in (trained.parent / "scores").iterdir()]
    (part,) = parts
    latents = part["latents"].float()
    assert latents.shape == (24, 4, 8, 8)
    call = {"prompt": [""] * 24, "guidance_scale": 1.0}
    expected = minority_scores(pipe, latents, call, level=0.6, draws=1)
    torch.testing.assert_close(part["scores"], expected, rtol=1e-4, atol=1e-5)
    assert (part["levels"].diff() > 0).all()
    signal = float(pipe.scheduler.alphas_cumprod[601])
    level = math.log(math.sqrt(1 - signal) / math.sqrt(signal))
    assert float(part["levels"][60]) == pytest.approx(level, abs=1e-4)


def test_guides_the_model_that_it_was_trained_for_and_no_other(
    trained: Path, models: Path, sd: Any
) -> None:
    pipe = load_pipeline(str(models / "sd"), device="cpu")
    for path in (str(trained), trained):
        with guide(pipe, CFG(3.0) + MinorityGuidance(50.0, path)) as run:
            guided = tiny.sample(pipe, 3.0, batch=2)
    with guide(pipe, CFG(3.0)):
        plain = tiny.sample(pipe, 3.0, batch=2)
    assert (guided - plain).abs().max() > 1e-4
    assert all(len(r.extras["MinorityGuidance: log p"]) == 2 for r in run.report.steps)
    assert repr(MinorityGuidance(1.0, trained)) == (
        f"MinorityGuidance(scale=1.0, classifier=MinorityClassifier(path={str(trained)!r}))"
    )
    with torch.no_grad():
        for weight in pipe.unet.parameters():
            weight.mul_(1.5)
    with pytest.raises(ValueError, match="was trained for another denoiser"):
        guide(pipe, MinorityGuidance(50.0, str(trained)))
    with pytest.raises(ValueError, match="must hold one that reads x0, found one that reads noisy"):
        _ = LatentClassifier(str(trained)).classes


def test_another_kind_of_classifier_is_refused(trained: Path, models: Path, tmp_path: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | {"kind": "classifier"}))
    pipe = load_pipeline(str(models / "sd"), device="cpu")
    message = (
        "MinorityClassifier: path must hold one of kind minority, found one of kind classifier"
    )
    with pytest.raises(ValueError, match=message):
        guide(pipe, MinorityGuidance(1.0, MinorityClassifier(str(tmp_path))))


def test_the_same_command_goes_on_and_others_score_anew(
    trained: Path, models: Path, pictures: Path, tmp_path: Path
) -> None:
    scores = trained.parent / "scores"
    before = {path: path.stat().st_mtime_ns for path in scores.iterdir()}
    expected = (trained / "model.safetensors").read_bytes()
    result = run(*quick(models, pictures, trained, "--truth", "rarity"))
    assert result.exit_code == 0, result.stderr
    assert {path: path.stat().st_mtime_ns for path in scores.iterdir()} == before
    assert (trained / "model.safetensors").read_bytes() == expected
    anew = tmp_path / "anew"
    again = run(*quick(models, pictures, anew, "--scores", scores, "--level", 0.3))
    assert again.exit_code == 0, again.stderr
    assert len(list(scores.iterdir())) == 2 * len(before)
    assert (anew / "model.safetensors").read_bytes() != expected


def test_two_processes_train_the_same(trained: Path, models: Path, pictures: Path) -> None:
    out = trained.parent / "two"
    scores = trained.parent / "two-scores"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command += ["--main_process_port", str(port), "-m", "apps.cli", "train", "minority"]
    given = quick(models, pictures, out, "--truth", "rarity", "--batch-size", 12)
    command += list(map(str, [*given, "--scores", scores]))
    kept = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, timeout=LIMIT, capture_output=True, env=kept)
    assert len(list(scores.iterdir())) == 2
    one, two = (load_file(folder / "model.safetensors") for folder in (trained, out))
    for name, weight in one.items():
        torch.testing.assert_close(two[name].float(), weight.float(), atol=2e-3, rtol=1e-2)


def test_captions_and_labels(models: Path, pictures: Path, tmp_path: Path) -> None:
    """A label of text models is a group; that of class-conditional ones they are given, too."""
    data = tmp_path / "data"
    data.mkdir()
    rows = [json.loads(line) for line in (pictures / "metadata.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        (data / row["file_name"]).symlink_to(pictures / row["file_name"])
        row["class"] = number % 2
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    weights: list[bytes] = []
    for more in (
        ("--captions",),
        ("--label", "class"),
        ("--model", models / "dit", "--label", "class"),
    ):
        out = tmp_path / str(len(weights))
        result = run(*quick(models, data, out, *more))
        assert result.exit_code == 0, result.stderr
        weights.append((out / "model.safetensors").read_bytes())
    assert len(set(weights)) == 3
    assert "--captions" in load_evaluator(tmp_path / "0").config.training["command"]
    refused = run(*quick(models, data, tmp_path / "no", "--model", models / "dit"))
    assert refused.exit_code == 2
    assert "draws classes: name the column of the class with --label" in refused.stderr


def test_learns_planted_rarity_and_its_noise(tmp_path: Path) -> None:
    """Latents whose score is their first channel; hopeless where all is noise."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(600, 4, 4, 4, generator=generator)
    score = torch.randn(600, generator=generator)
    latents[:, 0] = latents[:, 0] / 2 + score.view(-1, 1, 1)
    seen = Scored(latents, score, torch.linspace(-3, 5, 101))
    labels = quantile_labels(score, 4)
    torch.manual_seed(0)
    net: Any = build("minority", NetworkSettings(4, 4, width=12, depth=1))

    def loss(net: Any, batch: Any) -> torch.Tensor:
        rows = 200 + batch.indices
        x, level = noised(latents[rows], seen.levels, batch.rand(1)[:, 0], batch.randn(4, 4, 4))
        return torch.nn.functional.cross_entropy(net(x, level), labels[rows])

    train(net, loss, Recipe(150, 64, 5e-3, 5), 400, tmp_path, seed=0)
    rows = measure(net, seen, labels, slice(0, 200), seed=0)
    assert rows[0]["accuracy"] > 0.6
    assert rows[0]["off"] < 0.5
    assert rows[-1]["sigma"] == [4.0, None]
    assert rows[-1]["accuracy"] < 0.45
    assert rows[-1]["off"] > 0.7


def test_noised_latents_have_the_level_that_is_said() -> None:
    z, noise = torch.randn(2, 1000, 4, 2, 2, dtype=torch.float64)
    levels = torch.linspace(-2, 4, 31, dtype=torch.float64)
    share = torch.rand(1000, dtype=torch.float64)
    x, level = noised(z, levels, share, noise)
    torch.testing.assert_close(level, -2 + 6 * share)
    ratio = level.exp().view(-1, 1, 1, 1)
    torch.testing.assert_close(x, (z + ratio * noise) / (1 + ratio**2).sqrt())


def test_correlation_is_spearmans() -> None:
    scores = torch.randn(200).double()
    truth = (scores + torch.randn(200)).round()
    found = correlation(scores, truth)
    expected = spearmanr(scores, truth).statistic
    assert found["rank_correlation"] == pytest.approx(expected, abs=1e-4)
    low, high = found["interval"]
    assert low < expected < high
    assert high - low == pytest.approx(4 * math.sqrt(1.06 / 197) * (1 - expected**2), rel=0.1)
    assert found["pictures"] == 200


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--classes", 1), "classes must be"),
        (("--level", 1.5), "level must be a number from 0 to 1, found 1.5"),
        (("--distance", "psnr"), "distance must be one of mse, pictures, lpips, found 'psnr'"),
        (("--truth", "text"), "column 'text' must hold numbers"),
        (("--truth", "nothing"), "column 'nothing' is not known of 24 of 24 pictures"),
        (("--classes", 40), "40 classes of rarity are empty: 24 pictures have 24 different scores"),
        (("--lr", 0), "lr must be a finite number above 0"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    more: tuple[object, ...],
    message: str,
    models: Path,
    pictures: Path,
    trained: Path,
    tmp_path: Path,
) -> None:
    result = run(
        *quick(models, pictures, tmp_path / "out", "--scores", trained.parent / "scores", *more)
    )
    assert result.exit_code == 2
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("diffusteer: error: ")
    assert message in last
    assert not (tmp_path / "out" / "config.json").exists()
