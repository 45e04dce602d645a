"""Jobs that wait in line: told, stopped there, and apart from what else a visitor asked for."""

from __future__ import annotations

from typing import Any

import pytest
from gradio_client import Client

from apps.demo.session import Session
from tests.apps.demo.conftest import untidy
from tests.apps.demo.visit import press, slide, told

# Gradio 6 uses pandas in ways that pandas 4 will drop, and leaves event loops open.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pandas.errors.Pandas4Warning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


def test_a_stop_in_line_keeps_a_task_from_beginning(session: Session) -> None:
    session.ask("generate")
    assert session.halt("generate")
    assert session.begin("generate").is_set()


def test_a_stop_is_for_one_task_alone(session: Session) -> None:
    session.ask("generate")
    drawing = session.begin("generate")
    session.ask("search")
    assert session.halt("search")
    assert not drawing.is_set()
    assert not session.halt("generate")
    assert drawing.is_set()
    assert session.begin("search").is_set()


def test_a_stopped_task_can_be_asked_for_again(session: Session) -> None:
    session.ask("generate")
    session.halt("generate")
    session.ask("generate")
    assert not session.begin("generate").is_set()


def test_programs_begin_without_asking(session: Session) -> None:
    assert not session.halt("generate")
    first = session.begin("generate")
    session.halt("generate")
    assert first.is_set()
    assert not session.begin("generate").is_set()


def test_leaving_stops_all_tasks(session: Session) -> None:
    stops = [session.begin("generate"), session.begin("search")]
    session.ask("train")
    session.end()
    assert all(stop.is_set() for stop in stops)
    assert session.begin("train").is_set()


def test_a_visitor_waits_stops_and_comes_back(page: Any, address: str) -> None:
    with untidy():
        other = Client(address, verbose=False)
        values = ["emblem-unet", "a red star", "", [], 100, 8, 0, "the model's own"]
        job = other.submit(*values, api_name="/generate")
        next(iter(job))
        slide(page, "Steps", 2)
        slide(page, "Pictures", 1)
        press(page, "Generate")
        told(page, "queue: 1/1")
        press(page, "Stop")
        told(page, "Stopped.")
        press(page, "Generate")
        told(page, "queue: 1/1")
        assert not job.done()
        job.cancel()
        told(page, "1 pictures in")
        other.close()
