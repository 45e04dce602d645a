"""The subject protocol against loops over pairs, with networks that see mean colours."""

from __future__ import annotations

import itertools
import logging
import math
import statistics
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from apps.emblem.data import export_photos
from apps.evaluate.numbers.intervals import mean_interval
from apps.evaluate.pictures.workplace import Workplace
from apps.evaluate.protocols.subject import subject
from apps.evaluate.result import Result
from apps.evaluate.settings import EvaluateSettings


class Colours:
    """Three numbers of the mean colour, and of a text."""

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind, self.dimension = name, kind, 3
        self.seed = zlib.crc32(kind.encode())
        self.weights = torch.randn(3, 3, generator=torch.Generator().manual_seed(self.seed))
        self.read: list[str] = []

    def prepare(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - 0.4

    def features(self, batch: Tensor) -> Tensor:
        return batch.mean((2, 3)) @ self.weights

    def text(self, prompts: Sequence[str]) -> Tensor:
        self.read += prompts
        return torch.stack([self.of_text(prompt) for prompt in prompts])

    def of_text(self, prompt: str) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
        return torch.randn(3, generator=generator)

    def cut(self, prompt: str) -> int:
        return 0

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "kind": self.kind, "weights": str(self.seed)}

    def of(self, path: Path) -> Tensor:
        """Feature (3,) of one picture."""
        with Image.open(path) as image:
            return self.features(self.prepare(image)[None])[0]


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Colours]:
    """By name; every extractor of a workplace is one of them."""
    names = {"emblem-clip": "clip", "emblem-classifier": "classifier", "dino:small": "dino"}
    found = {name: Colours(name, kind) for name, kind in names.items()}
    found["dino:large"] = Colours("dino:large", "dino")
    for method in ("extractor", "text_extractor"):
        monkeypatch.setattr(Workplace, method, lambda _, name: found[name])
    return found


def paint(folder: Path, *names: str, seed: int = 0) -> Path:
    """Plain pictures of random colours."""
    for number, name in enumerate(names):
        colour = np.random.default_rng([seed, number]).integers(0, 256, 3)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), tuple(colour.tolist())).save(folder / name)
    return folder


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """Two pictures of a dog, three of a cat, two of a mug in a folder below, with prompts."""
    names = ["dog/0.png", "dog/1.png", "cat/0.png", "cat/1.png", "cat/2.png"]
    folder = paint(tmp_path / "generated", *names, "mug/a/0.png", "mug/b/0.png")
    for path in folder.rglob("*.png"):
        owner = path.relative_to(folder).parts[0]
        path.with_suffix(".txt").write_text(f"a sks {owner} in the snow\n")
    return folder


@pytest.fixture
def real(tmp_path: Path) -> Path:
    names = ["dog/0.png", "dog/1.png", "dog/2.png", "cat/9.png", "mug/0.png", "mug/1.png"]
    return paint(tmp_path / "real", *names, seed=1)


def _cosine(a: Tensor, b: Tensor) -> float:
    return F.cosine_similarity(a.double(), b.double(), dim=0).item()


def _of(folder: Path, owner: str) -> list[Path]:
    return sorted((folder / owner).rglob("*.png"))


@pytest.mark.parametrize(
    ("metric", "name"), [("clip_i", "emblem-clip"), ("dino", "dino:small"), ("classifier_i", "")]
)
def test_similarity_is_the_mean_over_subjects_of_all_pairs(
    generated: Path,
    real: Path,
    networks: dict[str, Colours],
    settings: EvaluateSettings,
    metric: str,
    name: str,
) -> None:
    identity = ["dino:small", "emblem-classifier"]
    found = subject(generated, real, identity=identity, settings=settings)
    net = networks[name or "emblem-classifier"]
    own = {
        owner: [
            statistics.fmean(_cosine(net.of(x), net.of(y)) for y in _of(real, owner))
            for x in _of(generated, owner)
        ]
        for owner in ("cat", "dog", "mug")
    }
    means = [statistics.fmean(values) for values in own.values()]
    assert found[metric].value == pytest.approx(statistics.fmean(means), abs=1e-6)
    assert found[metric].n == 7
    interval = mean_interval(torch.tensor(means))
    assert found[metric].interval == pytest.approx(interval, abs=1e-6)
    flat = statistics.fmean(itertools.chain(*own.values()))
    assert found[metric].value != pytest.approx(flat, abs=1e-4)
    assert found.images is not None
    single = dict(zip(found.images.names, found.images.values[metric], strict=True))
    assert single["mug/b/0.png"] == pytest.approx(own["mug"][1], abs=1e-6)


def test_the_ceiling_is_that_of_different_real_pictures(
    generated: Path, real: Path, networks: dict[str, Colours], settings: EvaluateSettings
) -> None:
    found = subject(generated, real, settings=settings)
    net = networks["emblem-clip"]
    means = [
        statistics.fmean(
            _cosine(net.of(x), net.of(y)) for x, y in itertools.permutations(_of(real, owner), 2)
        )
        for owner in ("dog", "mug")  # there is one real picture of the cat
    ]
    ceiling = found["clip_i_real"]
    assert ceiling.value == pytest.approx(statistics.fmean(means), abs=1e-6)
    assert (ceiling.n, ceiling.better) == (2, "neither")
    assert "classifier_i_real" in [score.metric for score in found.scores]


def test_prompts_are_compared_without_the_token(
    generated: Path, real: Path, networks: dict[str, Colours], settings: EvaluateSettings
) -> None:
    net = networks["emblem-clip"]
    found = subject(generated, real, token="sks", settings=settings)
    assert sorted(net.read) == [f"a {owner} in the snow" for owner in ("cat", "dog", "mug")]
    means = [
        statistics.fmean(
            _cosine(net.of(x), net.of_text(f"a {owner} in the snow")) for x in _of(generated, owner)
        )
        for owner in ("cat", "dog", "mug")
    ]
    assert found["clip_t"].value == pytest.approx(statistics.fmean(means), abs=1e-6)
    net.read.clear()
    plain = subject(generated, real, settings=settings)
    assert sorted(net.read) == [f"a sks {owner} in the snow" for owner in ("cat", "dog", "mug")]
    assert plain["clip_t"].value != found["clip_t"].value
    assert plain.settings["prompts"] != found.settings["prompts"]


def test_a_token_in_no_prompt_is_refused(
    generated: Path, real: Path, networks: dict[str, Colours], settings: EvaluateSettings
) -> None:
    with pytest.raises(ValueError, match="token 'skz' is in none of the prompts, the first is 'a "):
        subject(generated, real, token="skz", settings=settings)


def test_a_subject_without_folders_has_no_interval(
    tmp_path: Path, networks: dict[str, Colours], settings: EvaluateSettings
) -> None:
    generated = paint(tmp_path / "g", "0.png", "1.png")
    (tmp_path / "prompts.txt").write_text("a dog\na dog\n")
    real = paint(tmp_path / "r", "0.png", seed=1)
    found = subject(generated, real, tmp_path / "prompts.txt", settings=settings)
    assert all(score.interval is None for score in found.scores)
    assert found.settings["subjects"] == {"": 2}
    assert math.isnan(found["clip_i_real"].value)
    assert found["clip_i_real"].n == 0
    found.write(tmp_path / "result.json")
    assert math.isnan(Result.read(tmp_path / "result.json")["clip_i_real"].value)


@pytest.mark.parametrize(
    ("extra", "side", "words"),
    [
        ("fox/0.png", "generated", "subject 'fox' is only among the generated pictures"),
        ("fox/0.png", "real", "subject 'fox' is only among the real pictures"),
        ("0.png", "real", "subject '' is only among the real pictures; .* without folders on both"),
    ],
)
def test_a_subject_of_one_side_is_named(
    generated: Path,
    real: Path,
    networks: dict[str, Colours],
    settings: EvaluateSettings,
    extra: str,
    side: str,
    words: str,
) -> None:
    paint({"generated": generated, "real": real}[side], extra, seed=2)
    with pytest.raises(ValueError, match=words):
        subject(generated, real, settings=settings)


def test_prompts_of_uneven_numbers_are_told(
    generated: Path,
    real: Path,
    networks: dict[str, Colours],
    settings: EvaluateSettings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "diffusteer"):
        subject(generated, real, settings=settings)
    assert caplog.messages == [
        "prompts have from 2 to 3 pictures; the protocol has the same number of each"
    ]
    caplog.clear()
    (generated / "cat" / "2.png").unlink()
    with caplog.at_level(logging.WARNING, "diffusteer"):
        subject(generated, real, settings=settings)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("identity", "found"),
    [(["dino:small", "dino:large"], "clip_i, dino, dino"), (["emblem-clip"], "clip_i, clip_i")],
)
def test_two_extractors_of_one_kind_are_refused(
    generated: Path,
    real: Path,
    networks: dict[str, Colours],
    settings: EvaluateSettings,
    identity: list[str],
    found: str,
) -> None:
    with pytest.raises(ValueError, match=f"must be of different kinds, found {found}$"):
        subject(generated, real, identity=identity, settings=settings)


def test_the_result_says_how_it_was_made(
    generated: Path, real: Path, networks: dict[str, Colours], settings: EvaluateSettings
) -> None:
    found = subject(generated, real, settings=settings)
    assert found.settings["extractors"] == [
        networks[name].describe() for name in ("emblem-clip", "emblem-classifier")
    ]
    assert found.settings["subjects"] == {"cat": 3, "dog": 2, "mug": 2}
    assert found.images is not None
    owners = [name.split("/")[0] for name in found.images.names]
    assert list(found.images.groups) == owners
    (real / "dog" / "0.png").rename(real / "dog" / "7.png")
    assert subject(generated, real, settings=settings).settings == found.settings
    paint(real, "dog/0.png", seed=5)
    assert subject(generated, real, settings=settings).settings["real"] != found.settings["real"]


def test_photos_of_a_concept_are_nearer_to_it_than_those_of_another(
    tmp_path: Path, settings: EvaluateSettings
) -> None:
    for side, seed in (("generated", 0), ("real", 1)):
        for name, concept in (("ring", "a striped green ring"), ("star", "a solid red star")):
            export_photos(tmp_path / side / name, concept, 6, seed)
    right = subject(tmp_path / "generated", tmp_path / "real", settings=settings)
    (tmp_path / "real" / "ring").rename(tmp_path / "real" / "ring2")
    (tmp_path / "real" / "star").rename(tmp_path / "real" / "ring")
    (tmp_path / "real" / "ring2").rename(tmp_path / "real" / "star")
    wrong = subject(tmp_path / "generated", tmp_path / "real", settings=settings)
    for metric in ("clip_i", "classifier_i"):
        assert right[metric].value > wrong[metric].value + 0.1
        assert right[metric].value == pytest.approx(right[f"{metric}_real"].value, abs=0.1)
    assert right["clip_t"] == wrong["clip_t"]
