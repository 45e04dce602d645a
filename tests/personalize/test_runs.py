"""Every method through the trainer: stopped in a step, resumed, and drawn with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from personalize import (
    Perfusion,
    TextualInversion,
    ZOODiP,
    estimate_covariance,
    load,
    train,
    unload,
)
from personalize.core.method import Method
from personalize.core.settings import DataSettings, TrainSettings
from tests.personalize.core.dummy import photos
from tests.personalize.test_textual_inversion import weights
from tests.tiny import sample, sd

METHODS: dict[str, Callable[[Any], Method]] = {
    "textual-inversion": lambda pipe: TextualInversion("<c>", "a", num_vectors=2),
    "perfusion": lambda pipe: Perfusion("<c>", "a", estimate_covariance(pipe, ("a", "b", "c d"))),
    "zoodip": lambda pipe: ZOODiP("<c>", "a", history=2, nu=0.5),
}


@pytest.fixture(scope="module")
def pipe() -> Any:
    return sd()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = photos(tmp_path_factory.mktemp("photos"), masks=True)
    for number, text in enumerate(("a {}", "my {} b", "{}")):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_a_run_in_two_is_the_whole_run(name: str, pipe: Any, folder: Path, tmp_path: Path) -> None:
    method, data = METHODS[name](pipe), DataSettings(resolution=16)
    settings = {"max_train_steps": 4, "train_batch_size": 1, "gradient_accumulation_steps": 2}
    before, words = weights(pipe), pipe.tokenizer.get_vocab()

    def run(out: Path, stop_at: int | None = None, **more: Any) -> Any:
        seen: list[int] = []

        def stop(progress: Any) -> None:
            seen.append(progress.step)
            if stop_at is not None and progress.step == stop_at:
                raise KeyboardInterrupt

        return train(pipe, method, folder, out, TrainSettings(**settings | more), data, stop)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_at=3, checkpointing_steps=1)
    cut = run(tmp_path / "cut", resume_from_checkpoint="latest", checkpointing_steps=1)
    assert whole.tensors.keys() == cut.tensors.keys()
    assert all(torch.equal(whole.tensors[key], cut.tensors[key]) for key in whole.tensors)
    after = weights(pipe)
    assert after.keys() == before.keys() and pipe.tokenizer.get_vocab() == words
    assert all(torch.equal(after[key], value) for key, value in before.items())

    plain = sample(pipe)
    (file,) = {path.name for path in (tmp_path / "cut").glob("*.safetensors")}
    load(pipe, tmp_path / "cut" / file)
    assert torch.equal(sample(pipe), plain)
    assert not torch.equal(sample(pipe, prompt=["a <c>"]), sample(pipe, prompt=["a b"]))
    unload(pipe)
    assert torch.equal(sample(pipe), plain)


def test_the_nearest_words_are_logged_with_every_validation(
    pipe: Any, folder: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(max_train_steps=3, validation_steps=2)
    method = TextualInversion("<c>", "a b", num_vectors=2)
    artifact = train(pipe, method, folder, tmp_path, settings, DataSettings(resolution=16))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = {line["step"]: line["nearest_words"] for line in lines if "nearest_words" in line}
    assert list(found) == [2, 3]
    assert [words[0] for words in found[2]["clip_l"]] == ["a", "b"]
    assert found[3] == json.loads(artifact.metadata["nearest_words"])
