"""The prompts protocol: three scales of CLIP, and preference models."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.multimodal import CLIPScore
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from apps.evaluate.networks.clip import Embeddings, load_emblem_clip
from apps.evaluate.networks.rewards import load_reward
from apps.evaluate.numbers.intervals import mean_interval
from apps.evaluate.protocols.prompts import clip_scores, prompts
from apps.evaluate.result import Result
from apps.evaluate.settings import EvaluateSettings
from apps.shipped import shipped
from tests.apps.evaluate.tiny_networks import save_clip


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory, emblems: Path) -> Path:
    """16 pictures of the Emblem world with different captions."""
    folder = tmp_path_factory.mktemp("prompts") / "captioned"
    folder.mkdir()
    rows = {row["text"]: row for row in map(json.loads, _lines(emblems / "metadata.jsonl"))}
    for row in list(rows.values())[:16]:
        shutil.copy(emblems / row["file_name"], folder)
        (folder / row["file_name"]).with_suffix(".txt").write_text(row["text"])
    return folder


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def _pictures(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))


def _captions(folder: Path) -> list[str]:
    return [path.with_suffix(".txt").read_text() for path in _pictures(folder)]


def _own(result: Result, metric: str) -> list[float | None]:
    """Numbers of single pictures, by sorted name."""
    assert result.images is not None
    found = dict(zip(result.images.names, result.images.values[metric], strict=True))
    return [found[name] for name in sorted(found)]


def test_the_score_is_that_of_torchmetrics(captioned: Path, settings: EvaluateSettings) -> None:
    found = prompts(captioned, settings=settings)
    folder = shipped("emblem-clip")
    model = Embeddings(CLIPModel.from_pretrained(folder).float().eval())
    images = CLIPImageProcessorPil.from_pretrained(folder)
    processor = CLIPProcessor(images, CLIPTokenizer.from_pretrained(folder))
    metric = CLIPScore(model_name_or_path=lambda: (model, processor))
    pixels = [
        torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
        for path in _pictures(captioned)
    ]
    metric.update(pixels, _captions(captioned))
    expected = metric.compute().item()
    assert found["clip_score"].value == pytest.approx(expected, abs=1e-4)
    assert found["clip_t"].value == pytest.approx(expected / 100, abs=1e-6)
    cosines = [value for value in _own(found, "clip_t") if value is not None]
    assert len(cosines) == 16
    hessel = 2.5 * sum(max(value, 0) for value in cosines) / 16
    assert found["clip_score_hessel"].value == pytest.approx(hessel)


def test_the_scales_clamp_where_they_say() -> None:
    plain, hundred, hessel = clip_scores(torch.tensor([1.0, -1.0, 0.3]).double(), "abc", seed=0)
    assert plain.value == pytest.approx(0.1)
    assert hundred.value == pytest.approx(10)
    assert hessel.value == pytest.approx(2.5 * 1.3 / 3)
    assert plain.interval is not None
    assert plain.interval[0] < 0
    assert hundred.interval == pytest.approx((0, 100 * plain.interval[1]))
    assert hessel.interval == mean_interval(2.5 * torch.tensor([1.0, 0.0, 0.3]).double())
    below, at_zero, pair = clip_scores(torch.tensor([-0.5, -0.2]), "ab", seed=0)
    assert below.value == pytest.approx(-0.35)
    assert (at_zero.value, pair.value) == (0, 0)


def test_every_prompt_counts_the_same(captioned: Path, tmp_path: Path) -> None:
    settings = EvaluateSettings(device="cpu", cache=None, seed=4)
    pictures = _pictures(captioned)[:5]
    for path in pictures:
        shutil.copy(path, tmp_path)
    texts = ["a red star", "a blue ring", "a red star", "a small hat ", "a red star"]
    rows = [
        {"file_name": path.name, "text": text} for path, text in zip(pictures, texts, strict=True)
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = prompts(tmp_path, settings=settings)
    values = np.array(_own(found, "clip_t"), dtype=float)
    groups = torch.tensor([values[[0, 2, 4]].mean(), values[1], values[3]])
    assert found["clip_t"].value == pytest.approx(groups.mean().item())
    assert found["clip_t"].n == 5
    assert found["clip_t"].interval is not None
    assert found["clip_t"].interval != pytest.approx(mean_interval(torch.tensor(values), 4))
    assert found.images is not None
    assert sorted(found.images.texts) == sorted(text.strip() for text in texts)
    assert found.images.groups == found.images.texts


def test_one_prompt_has_no_interval(
    captioned: Path, tmp_path: Path, settings: EvaluateSettings
) -> None:
    (tmp_path / "same.txt").write_text("a red star\n" * 16)
    found = prompts(captioned, tmp_path / "same.txt", settings=settings)
    assert [score.interval for score in found.scores] == [None] * 3


def test_other_prompts_lower_the_score(
    captioned: Path, tmp_path: Path, settings: EvaluateSettings
) -> None:
    right = prompts(captioned, settings=settings)
    texts = _captions(captioned)
    texts[0], texts[1] = texts[1], texts[0]
    (tmp_path / "swapped.txt").write_text("\n".join(texts))
    swapped = prompts(captioned, tmp_path / "swapped.txt", settings=settings)
    assert swapped["clip_t"].value < right["clip_t"].value
    assert _own(swapped, "clip_t")[2:] == _own(right, "clip_t")[2:]
    (tmp_path / "rolled.txt").write_text("\n".join([*texts[1:], texts[0]]))
    rolled = prompts(captioned, tmp_path / "rolled.txt", settings=settings)
    assert rolled["clip_t"].value < right["clip_t"].value - 0.2
    assert rolled.settings["prompts"] == right.settings["prompts"]


def test_a_prompt_that_is_cut_is_told_once(
    captioned: Path, tmp_path: Path, settings: EvaluateSettings, caplog: pytest.LogCaptureFixture
) -> None:
    long = " ".join(["star"] * 40)
    clip = load_emblem_clip("", torch.device("cpu"))
    assert clip.cut(long) > 0
    (tmp_path / "long.txt").write_text("\n".join([long] * 3 + ["a red star"] * 13))
    with caplog.at_level(logging.WARNING, "diffusteer"):
        prompts(captioned, tmp_path / "long.txt", settings=settings)
    (message,) = caplog.messages
    assert message.startswith(
        "1 of 2 prompts are longer than emblem-clip reads, and cut: the first"
    )


class Red:
    """How red a picture is, per letter of its prompt."""

    def __init__(self, name: str = "red", of: float = 1.0) -> None:
        self.name, self.of = name, of
        self.batches: list[int] = []

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> list[float]:
        assert len(prompts) == len(images)
        assert all(image.mode == "RGB" for image in images)
        self.batches.append(len(images))
        pairs = zip(prompts, images, strict=True)
        return [self.of * np.array(image)[..., 0].mean() / len(text) for text, image in pairs]

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "of": self.of}


def test_a_reward_of_the_users_own(captioned: Path, settings: EvaluateSettings) -> None:
    reward = Red()
    found = prompts(captioned, rewards=[reward], settings=replace(settings, batch_size=6))
    assert reward.batches == [6, 6, 4]
    expected = [
        np.array(Image.open(path))[..., 0].mean() / len(text)
        for path, text in zip(_pictures(captioned), _captions(captioned), strict=True)
    ]
    assert _own(found, "red") == pytest.approx(expected)
    assert found["red"].value == pytest.approx(np.mean(expected))
    assert found.settings["rewards"] == [{"name": "red", "of": 1.0}]
    assert [score.metric for score in found.scores][3:] == ["red"]


def test_a_reward_by_name(captioned: Path, tmp_path: Path, settings: EvaluateSettings) -> None:
    name = f"pickscore:{save_clip(tmp_path / 'pick', tokens=120)}"
    found = prompts(captioned, rewards=[name, Red()], settings=replace(settings, batch_size=5))
    images = [Image.open(path) for path in _pictures(captioned)]
    expected = load_reward(name).score(_captions(captioned), images)
    assert _own(found, "pickscore:pick") == pytest.approx(expected, abs=1e-5)
    assert found.settings["rewards"][0]["weights"] == load_reward(name).describe()["weights"]


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        ([Red(), Red()], "rewards must have different names, .* found red, red"),
        ([Red("clip_t")], "and none be clip_t"),
        ([Red(of=math.nan)], "reward red gives 0 finite numbers for 16 pictures; expected one"),
        (["pikscore"], "no reward 'pikscore'; did you mean 'pickscore'"),
    ],
)
def test_rewards_that_cannot_be_used(
    captioned: Path, settings: EvaluateSettings, rewards: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        prompts(captioned, rewards=rewards, settings=settings)


def test_a_reward_that_loses_pictures(
    captioned: Path, settings: EvaluateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Red, "score", lambda *_: [1.0])
    with pytest.raises(ValueError, match="reward red gives 1 finite numbers for 16"):
        prompts(captioned, rewards=[Red()], settings=settings)


def test_an_extractor_without_texts_is_refused(captioned: Path, settings: EvaluateSettings) -> None:
    with pytest.raises(ValueError, match="'emblem-classifier' takes no texts: use emblem-clip"):
        prompts(captioned, extractor="emblem-classifier", settings=settings)


def test_the_result_says_how_it_was_made(captioned: Path, settings: EvaluateSettings) -> None:
    found = prompts(captioned, settings=replace(settings, seed=9))
    clip = load_emblem_clip("", torch.device("cpu"))
    assert found.settings["extractor"] == clip.describe()
    assert (found.settings["pictures"], found.settings["seed"]) == (16, 9)
    assert len(found.settings["prompts"]) == 64
    mean = "mean cosine of picture and prompt; interval by resampling prompts"
    assert [score.about for score in found.scores] == [
        mean,
        f"100 x clip_t, clamped at 0; {mean}",
        "mean of 2.5 x cosine, each clamped at 0; interval by resampling prompts",
    ]
