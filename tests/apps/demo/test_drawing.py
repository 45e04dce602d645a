"""Runs that are watched: previews, the plain pictures, a stop within a step."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import pytest

from apps.demo import figures
from apps.demo.drawing import Drawn, Look, draw, drawing
from apps.demo.forms import Request
from apps.demo.model import Model
from apps.demo.streaming import Emit, stream
from apps.demo.watch import Stopped
from apps.generate import Call, Job, generate
from guidance import CFG, Rule, guide

JOBS = [Job("a red star", 3), Job("a red star", 4)]


@pytest.mark.parametrize("rule", [CFG(4.0), None])
def test_a_watched_run_draws_what_any_run_draws(unet: Model, rule: Rule | None) -> None:
    looks: list[Look] = []
    call = Call(steps=4, guided=rule is not None)
    made = draw(unet, rule, JOBS, call, Event(), looks.append)
    if rule is None:
        plain = list(generate(unet.pipe, JOBS, call))
    else:
        with guide(unet.pipe, rule):
            plain = list(generate(unet.pipe, JOBS, call))
    assert [image.tobytes() for image in made.images] == [image.tobytes() for image in plain]
    assert [look.done for look in looks] == [0.25, 0.5, 0.75, 1.0]
    assert made.report.nfe == (8 if rule else 4)
    assert made.report.rule == (repr(rule) if rule else "no guidance")
    shown = [look.previews for look in looks if look.previews]
    assert shown and all(len(pictures) == 2 for pictures in shown)
    assert all(image.size == (64, 64) for pictures in shown for image in pictures)
    unturned = made.turns == pytest.approx((1, 1, 1, 1), abs=1e-6)
    assert unturned == (rule is None)
    assert len(figures.steps(made).axes) == 4


def test_a_stop_ends_the_run_at_the_next_call(unet: Model) -> None:
    stop, looks = Event(), []

    def look(each: Look) -> None:
        looks.append(each)
        if len(looks) == 2:
            stop.set()

    with pytest.raises(Stopped):
        draw(unet, CFG(4.0), JOBS, Call(steps=20, guided=True), stop, look)
    assert len(looks) == 2
    assert draw(unet, None, JOBS, Call(steps=1, guided=False), Event(), looks.append).images


def test_another_scheduler_holds_for_one_run(unet: Model) -> None:
    own = unet.pipe.scheduler
    request = Request(model=unet.name, prompt="a red star", steps=2, scheduler="euler")
    *_, made = drawing(unet, request, CFG(4.0), JOBS, Event())
    assert isinstance(made, Drawn)
    assert unet.pipe.scheduler is own
    cells = made.cells("CFG", JOBS)
    assert [cell.job for cell in cells] == JOBS
    assert sum(cell.seconds for cell in cells) == pytest.approx(made.seconds)


def test_a_stream_ends_with_the_last_news() -> None:
    def count(emit: Emit[int]) -> None:
        for number in range(100):
            emit(number)

    news = list(stream(count, Event()))
    assert news[-1] == 99
    assert news == sorted(set(news))


def test_a_stream_raises_what_the_work_raises_after_its_news() -> None:
    def fail(emit: Emit[int]) -> None:
        emit(1)
        raise ValueError("no")

    found = []
    with pytest.raises(ValueError, match="no"):
        for news in stream(fail, Event()):
            found.append(news)  # noqa: PERF402
    assert found == [1]


def test_leaving_a_stream_stops_the_work() -> None:
    stop = Event()

    def wait(emit: Emit[int]) -> None:
        emit(1)
        assert stop.wait(10)

    run: Iterator[int] = stream(wait, stop)
    assert next(run) == 1
    run.close()  # type: ignore[attr-defined]
    assert stop.is_set()
