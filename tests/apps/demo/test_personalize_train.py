"""Training a word in the demo: where it runs, what a stop keeps, what a visitor leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from apps.demo import personalize_train
from apps.demo.model import Model
from apps.demo.personalize_form import METHODS, TrainRequest, caption, pace
from apps.demo.personalize_train import training
from apps.demo.personalize_try import TryRequest, trial
from apps.demo.photos import examples, receive
from apps.demo.session import Session
from apps.demo.watch import Stopped
from personalize.core.images import find_items

REQUEST = TrainRequest(
    model="emblem-unet",
    method="textual-inversion",
    word="<my-thing>",
    start="heart",
    text="a {}",
    steps=40,
    batch=1,
    check="a large {}",
)


@pytest.fixture
def photos(session: Session) -> Path:
    """Photos that a visitor brought."""
    folder = session.place("photos")
    examples(folder)
    return folder


@pytest.fixture(autouse=True)
def _news_of_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personalize_train, "_PAUSE", 0.0)


def lines(news: Iterator[tuple[Any, ...]]) -> Iterator[str]:
    """The status lines of a run."""
    return (str(each[0]) for each in news)


@pytest.mark.parametrize(
    ("device", "dtype", "precision"),
    [
        ("cpu", torch.float32, "no"),
        ("cuda:1", torch.bfloat16, "bf16"),
        ("mps", torch.float16, "fp16"),
    ],
)
def test_it_trains_where_the_demo_draws(
    unet: Model,
    session: Session,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    dtype: torch.dtype,
    precision: str,
) -> None:
    def train(model: str, *_: Any, device: torch.device, **__: Any) -> None:
        told.append((model, device, _[3].mixed_precision))
        raise Stopped

    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr(personalize_train, "train", train)
    pipe = SimpleNamespace(device=torch.device(device), dtype=dtype)
    *_, last = lines(training(replace(unet, pipe=pipe), REQUEST, photos, session, Event()))
    assert told == [(unet.source, torch.device(device), precision)]
    assert "Stopped before there was anything to keep." in last


def test_a_stop_keeps_the_last_checkpoint(unet: Model, session: Session, photos: Path) -> None:
    stop = Event()
    seen = []
    for line in lines(training(unet, REQUEST, photos, session, stop)):
        seen.append(line)
        if list(session.folder.glob("trained-*/checkpoint-*")):
            stop.set()
    assert "Stopped: this is the last state that was kept" in seen[-1]
    assert session.learned.parent.name.startswith("checkpoint-")
    assert not any("step 40 of 40" in line for line in seen)

    wanted = TryRequest(model=unet.name, prompt="a <my-thing>", steps=1, pictures=1)
    *_, last = lines(trial(unet, wanted, session, Event()))
    assert "1 pictures in" in last
    assert "<my-thing>" not in unet.pipe.tokenizer.get_vocab()


def test_nothing_is_left_of_a_visitor_who_leaves(
    unet: Model, session: Session, photos: Path
) -> None:
    stop = Event()
    news = lines(training(unet, REQUEST, photos, session, stop))
    next(line for line in news if "training: step" in line)
    stop.set()
    session.end()
    assert "Stopped before there was anything to keep." in [*news][-1]
    assert not session.folder.exists()


def test_nothing_that_is_made_meanwhile_is_left(
    unet: Model, session: Session, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(model: str, method: Any, photos: Path, folder: Path, *_: Any, **__: Any) -> None:
        stop.set()
        session.end()
        folder.mkdir(parents=True)
        (folder / "log" / "jsonl").touch()

    stop = Event()
    monkeypatch.setattr(personalize_train, "train", train)
    *_, last = lines(training(unet, REQUEST, photos, session, stop))
    assert "Stopped before there was anything to keep." in last
    assert not session.folder.exists()


def test_a_full_disk_is_no_stop(
    unet: Model, session: Session, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr(personalize_train, "train", train)
    with pytest.raises(OSError, match="disk is full"):
        [*training(unet, REQUEST, photos, session, Event())]
    assert session.folder.exists()


def test_nothing_to_draw_with_yet(unet: Model, session: Session) -> None:
    wanted = TryRequest(model=unet.name, prompt="a <my-thing>")
    with pytest.raises(ValueError, match="nothing is learned yet: train first"):
        next(trial(unet, wanted, session, Event()))


@pytest.mark.parametrize("name", ["text", "check"])
@pytest.mark.parametrize("text", ["a star", "a {} and a {}"])
def test_the_word_has_one_place(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"write .* once, where the learned word goes"):
        TrainRequest.model_validate(REQUEST.model_dump() | {name: text})


@pytest.mark.parametrize("method", METHODS.values())
def test_the_rate_of_small_models_is_not_for_large_ones(unet: Model, method: str) -> None:
    small, large = pace("emblem-unet", method), pace("stable-diffusion", method)
    assert (large.steps, large.batch, large.rate) == (small.steps, small.batch, 0)
    filled = {"method": method, "steps": small.steps, "batch": small.batch}
    for chosen in (small, large):
        request = TrainRequest.model_validate(REQUEST.model_dump() | filled | {"rate": chosen.rate})
        rate = request.settings(unet).preferring(request.trainer().defaults).learning_rate
        own = request.trainer().defaults.get("learning_rate", 5e-4)
        assert rate == (chosen.rate or own)


def test_photos_keep_their_captions_and_others_get_the_visitors(session: Session) -> None:
    folder = session.place("photos")
    brought = examples(session.place("examples"))
    gallery = [(file, None if n in (1, 2) else own) for n, (file, own) in enumerate(brought)]
    files = receive(gallery, folder, 1, 5)
    caption(files, gallery, "my {}")
    told = [item.prompts for item in find_items(folder)]
    assert told == [
        ("a large {} on a white background",),
        ("my {}",),
        ("my {}",),
        ("a small {} on a purple background",),
        ("a large {} on a white background",),
    ]


def test_without_a_caption_the_method_chooses(session: Session, photos: Path) -> None:
    caption([*photos.iterdir()], [(None, None)] * 5, "")
    assert all(item.prompts != ("",) for item in find_items(photos))
    assert not [*photos.glob("*.txt")]


def test_a_caption_without_a_place_is_refused(photos: Path) -> None:
    with pytest.raises(ValueError, match=r"write .* once, where the learned word goes, found 'x'"):
        caption([*photos.iterdir()], [(None, "x")] * 5, "a {}")
